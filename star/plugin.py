"""What a plugin is written with. Light: nothing here imports torch. A loss term is in `star.objectives`, which does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from star.errors import DataError
from star.spec.base import LayerRef
from star.spec.plugin_parts import SourceConfig, StageConfig, TermConfig, TokenizerConfig

__all__ = [
    "Job",
    "LayerRef",
    "Source",
    "SourceConfig",
    "Stage",
    "StageConfig",
    "TermConfig",
    "Tokenizer",
    "TokenizerConfig",
]


@dataclass(frozen=True)
class Job:
    """What a stage of a plugin gets."""

    inputs: Mapping[str, Path]
    """The output folder of each stage in `after`."""
    out: Path
    """An empty folder for what it makes; it counts as made when `run` returns."""
    checkpoints: Path
    """The folder whose content is kept between attempts; it is made by whoever writes there first."""
    device: Any
    """A torch.device."""
    threads: int
    seed: int | None
    """None where a stage does not say `uses_seed`: it would be in no key."""
    record: Callable[[int, Mapping[str, float]], None]
    """(step, numbers): points of its curves."""
    progress: Callable[[int, int], None]
    """(done, total): how far it is; where the stage keeps nothing, this ends an attempt that is to stop."""
    stop: Callable[[], bool]
    """Whether it is to stop: save into `checkpoints` what the next attempt needs, and raise `star.errors.Stopped`."""
    sections: Mapping[str, Any]
    load_model: Callable[[str], Any]
    load_tokenizer: Callable[[], Any]

    def section(self, name: str) -> Any:
        """A section of the run's spec that what it comes after was made with, such as `data` or `model`.

        Raises:
            DataError: another one, which is not in this stage's key.
        """
        if name not in self.sections:
            legal = ", ".join(sorted(self.sections)) or "none"
            raise DataError(f"section {name!r}: nothing that this stage comes after reads it; there are: {legal}.")
        return self.sections[name]

    def model(self, weights: str = "student") -> Any:
        """The trained `star.model.gpt.GPT` on the device, in evaluation mode; wants `train` in `after`.

        Args:
            weights: `student`, `teacher` or `best`.
        """
        return self.load_model(weights)

    def tokenizer(self) -> Any:
        """The image tokenizer, a `star.tokenizer.vq.VQModel`, on the device; wants `tokenizer` in `after`."""
        return self.load_tokenizer()


class Source:
    """A data set of one's own. It is opened with its config and `data.path`, in each process that reads it, and by the plan.

    What it yields has to follow from its config and the content of `data.path`, a file or folder, which is in the key.
    """

    name: ClassVar[str]
    """As `data.name`."""
    config: ClassVar[type[SourceConfig]]
    """What runs may say of it, under `data.NAME`: a pydantic model with a default for every field."""
    version: ClassVar[int | None] = None
    """In the key in place of the file's content: raise it when the images change."""

    def __init__(self, config: Any, path: Path) -> None:
        raise NotImplementedError

    def labels(self, split: str) -> Any:
        """(N,) whole numbers from 0: the class of each image of `train` or `test`."""
        raise NotImplementedError

    def image(self, split: str, index: int) -> Any:
        """(H, W, C) bytes of one image, C as `data.channels` says; any size.

        Raises:
            star.errors.DataError: it cannot be read; `data.bad_images: skip` leaves such out.
        """
        raise NotImplementedError


class Tokenizer:
    """An image tokenizer of one's own: a mixin of a torch.nn.Module, made with its config, `tokenizer.codebook_size` and `data.channels`.

    Its state dict is what is kept of it. With `tokenizer.weights` it is loaded from there; else `fit` trains it.
    """

    name: ClassVar[str]
    """As `tokenizer.name`."""
    config: ClassVar[type[TokenizerConfig]]
    """What runs may say of it, under `tokenizer.NAME`, `downsample` among it."""
    version: ClassVar[int | None] = None
    """In the key in place of the file's content: raise it when codes or images change."""

    def encode(self, images: Any) -> Any:
        """(B, C, H, W) floats in [-1, 1] -> (B, T) long, row by row, below `codebook_size`; T = (H / downsample)^2."""
        raise NotImplementedError

    def decode(self, codes: Any) -> Any:
        """(B, T) long -> (B, C, H, W) floats; they are cut to [-1, 1]."""
        raise NotImplementedError

    def fit(self, images: Callable[[int, int], Any], job: Job) -> None:
        """Train it on `job.device`, where it is already.

        Args:
            images: (step, count) -> (count, C, H, W) floats in [-1, 1]: crops of training images, the same whenever they are asked for.
            job: `seed` is tokenizer.seed; `record`, `progress`, `stop` and `checkpoints` as for a stage that keeps checkpoints.
        """


class Stage:
    """A stage of one's own: a step of a run with a key, a job and numbers of its own. Its config is the run's section of its name."""

    name: ClassVar[str]
    """As a target, and before its metrics: `NAME/RESULT`."""
    config: ClassVar[type[StageConfig]]
    """What runs may say of it: a pydantic model with a default for every field."""
    after: ClassVar[tuple[str, ...]] = ()
    """Stages whose output it reads."""
    results: ClassVar[tuple[str, ...]] = ()
    """Numbers that `run` returns."""
    curves: ClassVar[Mapping[str, str]] = {}
    """Numbers that it records on the way -> what a step of them is."""
    attach: ClassVar[tuple[str, ...]] = ()
    """Files that it leaves in `job.out` for the tracked run."""
    keeps: ClassVar[Literal["checkpoints"] | None] = None
    """`checkpoints`: what it leaves in `job.checkpoints`, the next attempt goes on from."""
    gpu: ClassVar[bool] = True
    """Whether it computes on a GPU where there is one (`job.device`)."""
    uses_seed: ClassVar[bool] = False
    """Whether runs of two seeds are two for it (`job.seed`)."""
    version: ClassVar[int | None] = None
    """In the key in place of the file's content: raise it when results change."""

    def run(self, config: StageConfig, job: Job) -> Mapping[str, float]:
        """Do it; returns a number for each of `results`.

        Raises:
            star.errors.DataError: what a user can mend: its sentence is shown as it is.
        """
        raise NotImplementedError

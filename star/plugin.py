"""Base classes for plugins. Nothing here imports torch; the base class of loss terms, in `star.objectives`, does."""

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
    """What the code of a plugin gets: a stage's `run`, or a tokenizer's `fit`."""

    inputs: Mapping[str, Path]
    """Name -> output folder of each stage in `after`."""
    out: Path
    """An empty folder for the output, which counts as made when `run` returns."""
    checkpoints: Path
    """A folder whose content is kept between attempts. It may not exist yet: create it before writing there."""
    device: Any
    """A torch.device."""
    threads: int
    seed: int | None
    """The run's seed; None if the stage does not set `uses_seed`, for then the seed is not in its key."""
    record: Callable[[int, Mapping[str, float]], None]
    """Call it with (step, numbers) to record points of the stage's curves."""
    progress: Callable[[int, int], None]
    """Call it with (done, total) to report progress. If the stage keeps nothing, it ends an attempt that is to stop."""
    stop: Callable[[], bool]
    """Whether to stop: then save what the next attempt needs into `checkpoints`, and raise `star.errors.Stopped`."""
    sections: Mapping[str, Any]
    """What `section` returns, by name."""
    load_model: Callable[[str], Any]
    """What `model` calls."""
    load_tokenizer: Callable[[], Any]
    """What `tokenizer` calls."""

    def section(self, name: str) -> Any:
        """A section of the run's spec that the stages before this one read, such as `data` or `model`.

        Raises:
            DataError: they do not read this section, so it is not in this stage's key.
        """
        if name not in self.sections:
            legal = ", ".join(sorted(self.sections)) or "none"
            raise DataError(f"section {name!r}: nothing that this stage comes after reads it; there are: {legal}.")
        return self.sections[name]

    def model(self, weights: str = "student") -> Any:
        """The trained `star.model.gpt.GPT` on the device, in evaluation mode; needs `train` in `after`.

        Args:
            weights: `student`, `teacher` or `best`.

        Raises:
            star.errors.DataError: the training left no such weights.
            KeyError: `train` is not in `after`.
        """
        return self.load_model(weights)

    def tokenizer(self) -> Any:
        """The image tokenizer on the device, in evaluation mode; needs `tokenizer` in `after`.

        A `star.tokenizer.vq.VQModel`, or `encode`, `decode` and `codebook` of a plugin's, whose results are checked.

        Raises:
            KeyError: `tokenizer` is not in `after`.
        """
        return self.load_tokenizer()


class Source:
    """A custom data set. It is made with its config and `data.path`, in each process that reads it, and by the plan.

    Images and labels must depend only on its config and the content of `data.path`, a file or folder: these are in the
    key.
    """

    name: ClassVar[str]
    """Its name, as `data.name` gives it."""
    config: ClassVar[type[SourceConfig]]
    """Its settings, in a run under `data.NAME`: a pydantic model with a default for every field."""
    version: ClassVar[int | None] = None
    """If set, it is in the key in place of the plugin file's content: raise it when the images change."""

    def __init__(self, config: Any, path: Path) -> None:
        raise NotImplementedError

    def labels(self, split: str) -> Any:
        """Class of each image of the split `train` or `test`: (N,) whole numbers from 0."""
        raise NotImplementedError

    def image(self, split: str, index: int) -> Any:
        """One image of a split: (H, W, C) uint8 of any size, C as `data.channels` says.

        Raises:
            star.errors.DataError: the image cannot be read; `data.bad_images: skip` leaves such images out.
        """
        raise NotImplementedError


class Tokenizer:
    """A custom image tokenizer: `class Mine(Tokenizer, torch.nn.Module)`.

    It is made with its config, `tokenizer.codebook_size` and `data.channels`. Its state dict is what is kept of it.
    With `tokenizer.weights` it is loaded from there; else `fit` trains it, and without a `fit` it is used as it was made.
    """

    name: ClassVar[str]
    """Its name, as `tokenizer.name` gives it."""
    config: ClassVar[type[TokenizerConfig]]
    """Its settings, in a run under `tokenizer.NAME`; `downsample` is one of them."""
    version: ClassVar[int | None] = None
    """If set, it is in the key in place of the plugin file's content: raise it when codes or images change."""

    def encode(self, images: Any) -> Any:
        """Encode (B, C, H, W) floats in [-1, 1] as (B, T) long < codebook_size, row by row; T = (H / downsample)^2."""
        raise NotImplementedError

    def decode(self, codes: Any) -> Any:
        """Decode (B, T) long to (B, C, H, W) floats; the platform clamps them to [-1, 1]."""
        raise NotImplementedError

    def codebook(self) -> Any:
        """The vector of every code, (codebook_size, d); needed only by loss terms that compare with it.

        Raises:
            star.errors.DataError: the tokenizer does not define it.
        """
        raise DataError(
            f"tokenizer.name: {self.name} does not define codebook(), which gives the vector of every code."
        )

    def fit(self, images: Callable[[int, int], Any], job: Job) -> None:
        """Train the tokenizer on `job.device`, where it is already.

        Args:
            images: (step, count) -> (count, C, H, W) floats in [-1, 1]: crops of training images, the same for the same
                arguments.
            job: `seed` is tokenizer.seed; `record`, `progress`, `stop` and `checkpoints` as for a stage that keeps checkpoints.
        """


class Stage:
    """A custom stage: a step of a run with its own key, job and numbers. Its config is the run's section so named."""

    name: ClassVar[str]
    """Its name as a target, and in front of its metrics: `NAME/RESULT`."""
    config: ClassVar[type[StageConfig]]
    """Its settings in a run: a pydantic model with a default for every field."""
    after: ClassVar[tuple[str, ...]] = ()
    """Names of the stages whose output it reads."""
    results: ClassVar[tuple[str, ...]] = ()
    """Names of the numbers that `run` returns."""
    curves: ClassVar[Mapping[str, str]] = {}
    """Name of each number that it records with `job.record` -> what a step is."""
    attach: ClassVar[tuple[str, ...]] = ()
    """Files that it leaves in `job.out`, to attach to the tracked run."""
    keeps: ClassVar[Literal["checkpoints"] | None] = None
    """`checkpoints`: the next attempt goes on from what this one leaves in `job.checkpoints`."""
    gpu: ClassVar[bool] = True
    """Whether it computes on a GPU if there is one (`job.device`)."""
    uses_seed: ClassVar[bool] = False
    """Whether it uses the run's seed (`job.seed`), so that the seed is in its key."""
    version: ClassVar[int | None] = None
    """If set, it is in the key in place of the plugin file's content: raise it when results change."""

    def run(self, config: StageConfig, job: Job) -> Mapping[str, float]:
        """Compute the stage; returns a number for each of `results`.

        Raises:
            star.errors.DataError: a mistake that the user can fix; its message is shown as it is.
        """
        raise NotImplementedError

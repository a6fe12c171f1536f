"""The context that every stage gets, and functions that several stages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from star.data.codes import part_of
from star.data.own import own_images
from star.data.pixels import Images, square
from star.data.places import folder_of, missing
from star.data.sharded import ShardedArray
from star.data.sources import ImageSource, open_source
from star.data.splits import Split
from star.data.views import ordered_views, sides_before_crop
from star.errors import DataError
from star.model.gpt import GPT
from star.pipeline.config.plugged import RunWithPlugins
from star.pipeline.config.run import StarRun
from star.pipeline.dataset import is_shuffled
from star.plugin import Job
from star.ranks import Ranks
from star.stages.own_tokenizer import CheckedTokenizer, own_tokenizer
from star.tokenizer.load import load_vq
from star.tokenizer.vq import VQModel
from star.train.trainer import build_model
from star.weights import load_weights
from star.words import shown

Result = dict[str, float]


@dataclass
class Context:
    """What a stage gets: its run, its folders, its device and ranks, and its callbacks."""

    spec: StarRun
    inputs: Mapping[str, Path]
    """The `out` folder of each input stage."""
    out: Path
    """An empty folder; it becomes the job's `out` when the stage returns. Only the first rank writes there."""
    checkpoints: Path
    """The folder whose content is kept between attempts of this job."""
    resume_from: Sequence[Path]
    """`out` folders of jobs that trained the same run up to an earlier step."""
    data_home: Path
    device: torch.device
    threads: int
    ranks: Ranks
    record: Callable[[int, Mapping[str, float]], None]
    progress: Callable[[int, int], None]
    stop: Callable[[], bool]
    plugins: Mapping[str, Path] = field(default_factory=dict)
    """Digest of each plugin that the stage uses -> the copy of it to import."""


def images_of(ctx: Context, split: Split) -> ImageSource:
    """All images of a split, of a built-in data set or of a plugin's.

    Raises:
        DataError: the images are missing, or do not match the spec.
    """
    spec = ctx.spec
    if isinstance(spec, RunWithPlugins) and (plugin := spec.source_plugin) is not None:
        if reason := missing(spec.data, ctx.data_home):
            raise DataError(reason)
        return own_images(spec, split, ctx.plugins[plugin.digest])
    return open_source(spec.data, ctx.data_home, split, ctx.threads)


def some_of(spec: StarRun, total: int, wanted: int) -> np.ndarray:
    """Rows (min(wanted, total),) of `total` images, the same for every run, the first of which are of all classes too."""
    return np.arange(min(wanted, total)) if is_shuffled(spec.data) else part_of(total, wanted)


class Pixels:
    """The images of one split that the stage `dataset` chose, read at the sides that a stage needs."""

    def __init__(self, ctx: Context, split: Split) -> None:
        chosen = np.load(ctx.inputs["dataset"] / f"{split}.npz")
        self.spec = ctx.spec.data
        self.indices, self.labels = chosen["indices"], chosen["labels"]
        self.source = images_of(ctx, split)
        if "listing" in chosen and str(chosen["listing"]) != self.source.listing():
            raise DataError(
                f"data.path: the images in {shown(folder_of(self.spec, ctx.data_home))} are not those that the stage dataset has listed: "
                "files came, went or were renamed since. Put them back, or run again, which makes a new plan of what is there now."
            )

    def __len__(self) -> int:
        return len(self.indices)

    def at(self, rows: np.ndarray | slice, side: int) -> Images:
        """Images (B, side, side, C): the centre squares, enlarged as the spec says."""
        return self._at_sides(rows, [side])[0]

    def read(self, rows: np.ndarray | slice) -> Images:
        """Images (B, S, S, C) at the side S that crops of the first crop range are cut from."""
        return self.at(rows, sides_before_crop(self.spec)[0])

    def views(self, rows: np.ndarray | slice) -> Images:
        """All views (B, 10 per crop range, image_size, image_size, C)."""
        larger = self._at_sides(rows, sides_before_crop(self.spec))
        return np.concatenate([ordered_views(images, self.spec) for images in larger], axis=1)

    def plain(self, rows: np.ndarray | slice) -> Images:
        """Centre squares (B, image_size, image_size, C), with which metrics compare."""
        return self.at(rows, self.spec.image_size)

    def _at_sides(self, rows: np.ndarray | slice, sides: list[int]) -> list[Images]:
        if self.spec.pad_to is None:
            return self.source.read_sides(self.indices[rows], sides, self.spec.enlarge)
        found = []
        for side in sides:  # larger sides, from which crops are cut, are padded further, as without `pad_to`
            padded = self.source.read(self.indices[rows], int(self.spec.pad_to * side / self.spec.image_size), "pad")
            found.append(np.stack([square(image, side, "resize") for image in padded]))
        return found


def shared_shards(ctx: Context, *arrays: ShardedArray) -> Iterator[tuple[int, slice]]:
    """Iterate over (shard, rows) of this rank's shards that any of `arrays` still lacks; all ranks must call it."""
    if ctx.ranks.is_main:
        ctx.checkpoints.mkdir(exist_ok=True)
        for array in arrays:
            array.prepare()
    ctx.ranks.barrier()
    found = {shard: rows for array in arrays for shard, rows in array.missing(ctx.ranks.rank, ctx.ranks.world_size)}
    return iter(sorted(found.items()))


class _Inputs(dict[str, Path]):
    """Folders of input stages; asking for another stage raises an error that lists them."""

    def __missing__(self, name: str) -> Path:
        legal = ", ".join(sorted(self)) or "none"
        raise DataError(
            f"job.inputs[{name!r}]: this stage does not come after it; there are: {legal}. `after` says more."
        )


def job_of(
    ctx: Context,
    seed: int | None,
    sections: Mapping[str, Any],
    record: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Job:
    """The part of a context that a plugin's code may see."""
    return Job(
        inputs=_Inputs(ctx.inputs),
        out=ctx.out,
        checkpoints=ctx.checkpoints,
        device=ctx.device,
        threads=ctx.threads,
        seed=seed,
        record=record or ctx.record,
        progress=ctx.progress,
        stop=ctx.stop,
        sections=sections,
        load_model=lambda weights: gpt_of(ctx, weights),
        load_tokenizer=lambda: vq_of(ctx),
    )


def vq_of(ctx: Context) -> VQModel | CheckedTokenizer:
    """The tokenizer of a run, on its device, in evaluation mode: the built-in VQ model or a plugin's."""
    own = own_tokenizer(ctx.spec, ctx.plugins)
    if own is not None:
        own.load_state_dict(load_weights(ctx.inputs["tokenizer"] / "vq.pt"))
        return CheckedTokenizer(own.eval().to(ctx.device), ctx.spec)
    return load_vq(ctx.spec.tokenizer, ctx.spec.data.channels, ctx.inputs["tokenizer"] / "vq.pt").to(ctx.device)


def gpt_of(ctx: Context, weights: str) -> GPT:
    model = build_model(ctx.spec)
    model.load_state_dict(load_weights(ctx.inputs["train"] / f"{weights}.pt"))
    return model.eval().to(ctx.device)

"""Stage `dataset`: which images a run uses."""

from __future__ import annotations

import logging

import numpy as np

from star.data import fetch
from star.data.sources import ImageSource
from star.data.splits import Split
from star.errors import DataError
from star.stages.context import Context, Result, images_of

log = logging.getLogger(__name__)


def dataset(ctx: Context) -> Result:
    """Choose a fixed random subset of each split's images; write their indices and labels to train.npz and test.npz."""
    spec, skipped = ctx.spec.data, 0
    counts: dict[Split, int] = {"train": spec.train_images, "test": spec.test_images}
    for split, count in counts.items():
        source = images_of(ctx, split)
        if count > len(source.labels):
            raise DataError(
                f"data.{split}_images: {count} images were planned, but the {split} split has {len(source.labels)} now; "
                "run again, which makes a new plan of what is there."
            )
        chosen = np.sort(np.random.default_rng(0).permutation(len(source.labels))[:count])
        if spec.bad_images == "skip":
            chosen = _readable(ctx, source, chosen)
            skipped += count - len(chosen)
            if not len(chosen):
                raise DataError(f"data.bad_images: none of the {count} {split} images can be read; the log names them.")
        np.savez(ctx.out / f"{split}.npz", indices=chosen, labels=source.labels[chosen], listing=source.listing())
    if spec.name == "fashion-mnist":  # its key takes this for granted
        fetch.check(ctx.data_home / spec.name)
    return {"skipped": skipped}


def _readable(ctx: Context, source: ImageSource, chosen: np.ndarray) -> np.ndarray:
    """The chosen images that can be decoded and have a legal label; the others are logged."""
    good = []
    for first in range(0, len(chosen), 1000):
        part = chosen[first : first + 1000]
        for index, problem in zip(part, source.problems(part), strict=True):
            if problem:
                log.warning("left out: %s", problem)
            else:
                good.append(index)
        ctx.progress(first + len(part), len(chosen))
    return np.array(good, dtype=np.int64)

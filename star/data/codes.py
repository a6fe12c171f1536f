"""The code store: all views of all images as one memory-mapped uint16 array; a training batch is one gather."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from star.data.views import CENTER
from star.errors import DataError


class CodeStore:
    """Codes (N, views, T) uint16 and labels (N,) int64 in a folder.

    Raises:
        DataError: the two files are missing or do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.codes: NDArray[np.uint16] = np.load(folder / "codes.npy", mmap_mode="r")
            self.labels: NDArray[np.int64] = np.load(folder / "labels.npy")
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: no code store: {error}.") from None
        if self.codes.ndim != 3 or len(self.codes) != len(self.labels):
            raise DataError(f"{folder}: codes of shape {self.codes.shape} do not fit {len(self.labels)} labels.")

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, images: NDArray[np.int64], views: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes (B, M, T) of images (B,) and their views (B, M)."""
        return self.codes[images[:, None], views].astype(np.int64)

    def center(self, first: int, last: int) -> NDArray[np.int64]:
        """Codes (b, T) of the plain centre crops of images `first` to `last`."""
        return self.codes[first:last, CENTER if self.codes.shape[1] > 1 else 0].astype(np.int64)


def create(folder: Path, count: int, views: int, length: int) -> np.memmap[tuple[int, int, int], np.dtype[np.uint16]]:
    """A writable (count, views, T) array behind `folder`/codes.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(folder / "codes.npy", mode="w+", dtype=np.uint16, shape=(count, views, length))


@lru_cache(maxsize=2)
def order_of_epoch(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The permutation of images in an epoch: a function of seed and epoch alone."""
    return np.random.default_rng((seed, 1, epoch)).permutation(count)


def distinct_views(seed: int, step: int, count: int, num_views: int, available: int) -> NDArray[np.int64]:
    """For each of `count` images, `num_views` distinct views of those available, (count, num_views)."""
    draws = np.random.default_rng((seed, 2, step)).random((count, available))
    return (
        np.argpartition(draws, num_views - 1, axis=1)[:, :num_views] if num_views < available else draws.argsort(axis=1)
    )

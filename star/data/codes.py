"""The code store: all views of all images as one memory-mapped uint16 array; a training batch is one gather."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from star.data.sharded import damaged_shards
from star.data.views import CENTER
from star.errors import DataError

LEFT_OUT = -1
"""Label of a row without codes: its input could not be read, and `data.bad_images` is `skip`."""


class CodeStore:
    """The code store in a folder: codes (N, views, T) uint16 and labels (N,) int64, without rows labelled LEFT_OUT.

    Raises:
        DataError: the files are missing, cut short, or do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._codes: NDArray[np.uint16] = np.load(folder / "codes.npy", mmap_mode="r")
            labels: NDArray[np.int64] = np.load(folder / "labels.npy")
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder}: no code store: {error}. `star-exp rerun KEY`, with the key in the job's name, makes it again."
            ) from None
        if self._codes.ndim != 3 or len(self._codes) != len(labels):
            raise DataError(f"{folder}: codes of shape {self._codes.shape} do not fit {len(labels)} labels.")
        self._rows = np.flatnonzero(labels != LEFT_OUT)
        self.labels = labels[self._rows]

    @property
    def num_rows(self) -> int:
        """Number of stored rows, those that were left out included."""
        return len(self._codes)

    def rows_of(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """The stored rows (B,) of the images with indices (B,): what else is stored by image is in the same rows."""
        return self._rows[images]

    @property
    def num_views(self) -> int:
        """Number of stored views per image."""
        return int(self._codes.shape[1])

    @property
    def length(self) -> int:
        """T: number of codes per view."""
        return int(self._codes.shape[2])

    @property
    def center_view(self) -> int:
        """Index of the view that is the plain centre crop."""
        return CENTER if self.num_views > 1 else 0

    def __len__(self) -> int:
        return len(self.labels)

    def verify(self) -> None:
        """Read everything once and compare it with its checksums.

        Raises:
            DataError: shards are damaged; the message has their number and the first.
        """
        for name in ("codes.npy", "labels.npy"):
            bad = damaged_shards(self.folder / name)
            if bad:
                raise DataError(
                    f"{self.folder / name}: {len(bad)} shards are damaged, first {bad[0]}. "
                    f"Remove {self.folder.parent.parent} and run again."
                )

    def gather(self, images: NDArray[np.int64], views: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes (B, M, T) of the images with indices (B,), of their views with indices (B, M)."""
        return self._codes[self._rows[images][:, None], views].astype(np.int64)

    def center(self, first: int, last: int) -> NDArray[np.int64]:
        """Codes (b, T) of the plain centre crops of images `first` to `last` - 1."""
        return self.center_of(np.arange(first, min(last, len(self))))

    def center_of(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes (B, T) of the plain centre crops of the images with indices (B,)."""
        codes: NDArray[np.int64] = self._codes[self._rows[images], self.center_view].astype(np.int64)
        return codes


@lru_cache(maxsize=2)
def order_of_epoch(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The permutation (count,) of the images in an epoch: a function of seed and epoch alone."""
    return np.random.default_rng((seed, 1, epoch)).permutation(count)


@lru_cache(maxsize=2)
def part_of(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` of `count` images in random order, the same for every seed; a smaller part begins a larger one."""
    return np.random.default_rng((0, 4)).permutation(count)[:wanted]


def distinct_views(seed: int, step: int, count: int, num_views: int, available: int) -> NDArray[np.int64]:
    """Draw `num_views` distinct views of the `available` ones for each of `count` images: (count, num_views)."""
    draws = np.random.default_rng((seed, 2, step)).random((count, available))
    return (
        np.argpartition(draws, num_views - 1, axis=1)[:, :num_views] if num_views < available else draws.argsort(axis=1)
    )

"""Shared by the sources of encoded images: decoding in several threads, and logging what was converted."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from star.data.pixels import Images, decoded_squares
from star.errors import DataError
from star.pipeline.config.dataset import DataSpec
from star.words import shown

LOOK = 64
"""Side in pixels to which an image is resized when only checking that it can be decoded."""
log = logging.getLogger(__name__)


def listing_of(names: Sequence[str], labels: NDArray[np.int64]) -> str:
    """A hash of names and labels, in order."""
    whole = hashlib.sha256(b"\0".join(map(os.fsencode, names)))
    whole.update(labels.tobytes())
    return whole.hexdigest()[:16]


class Decoded:
    """Base of the sources of encoded images; `threads` decode at a time. Each kind of conversion is logged once."""

    labels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    total: int

    def __init__(self, spec: DataSpec, threads: int) -> None:
        self.channels, self.num_classes = spec.channels, spec.num_classes
        self.pool = ThreadPoolExecutor(threads)
        self._noted: set[str] = set()

    def source(self, index: int) -> tuple[Path | bytes, str]:
        """An image's file or encoded bytes, and its name; raises DataError if they cannot be read."""
        raise NotImplementedError

    def names(self) -> Sequence[str]:
        """Names that identify the images, in order."""
        raise NotImplementedError

    def listing(self) -> str:
        return listing_of(self.names(), self.labels)

    def read(self, indices: NDArray[np.int64], side: int, enlarge: str) -> Images:
        return self.read_sides(indices, [side], enlarge)[0]

    def read_sides(self, indices: NDArray[np.int64], sides: list[int], enlarge: str) -> list[Images]:
        def one(index: int) -> list[Images]:
            source, name = self.source(index)
            return decoded_squares(source, self.channels, name, sides, enlarge, lambda said: self._note(said, name))

        read = list(self.pool.map(one, indices.tolist()))
        return [np.stack(images) for images in zip(*read, strict=True)]

    def problems(self, indices: NDArray[np.int64]) -> Iterator[str | None]:
        def one(index: int) -> str | None:
            if not 0 <= self.labels[index] < self.num_classes:
                return f"image {index}: its label is {self.labels[index]}, not 0 to {self.num_classes - 1}"
            try:
                source, name = self.source(index)
                decoded_squares(source, self.channels, name, [LOOK], "resize")
            except DataError as error:
                return str(error)
            return None

        return self.pool.map(one, indices.tolist())

    def _note(self, said: str, name: str) -> None:
        if said not in self._noted:
            self._noted.add(said)
            log.warning("%s (first: %s)", said, shown(name))

"""Image sources: which images there are, and how a batch of them is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from star.data.class_folders import ClassFolders
from star.data.decoding import listing_of
from star.data.folders import Tree
from star.data.image_folder import ImageFolder
from star.data.pixels import Images, square
from star.data.places import folder_of, missing
from star.data.splits import Split
from star.errors import DataError
from star.pipeline.config.dataset import DataSpec


class ImageSource(Protocol):
    """All images of one split, in a fixed order."""

    labels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    """Each image's number in the whole training folder, held-out ones included, as LlamaGen's extraction counts."""

    total: int
    """How many images `numbers` counts over."""

    def read(self, indices: NDArray[np.int64], side: int, enlarge: str) -> Images:
        """Images (B, side, side, C): the centre squares, resized to `side` pixels, or padded as `enlarge` says."""
        ...

    def read_sides(self, indices: NDArray[np.int64], sides: list[int], enlarge: str) -> list[Images]:
        """As `read`, for each of `sides`; every image is decoded once."""
        ...

    def problems(self, indices: NDArray[np.int64]) -> Iterator[str | None]:
        """For each image, what is wrong with it or None; decodes it to the last pixel."""
        ...

    def listing(self) -> str:
        """A hash of which images these are and in which order, not of their contents."""
        ...


def open_source(spec: DataSpec, data_home: Path, split: Split, threads: int = 1) -> ImageSource:
    """Open the images of a split.

    Args:
        threads: how many images are decoded at a time.

    Raises:
        DataError: the images are missing, or do not match the spec.
    """
    reason = missing(spec, data_home)
    if reason:
        raise DataError(reason)
    if spec.name == "fashion-mnist":
        return FashionMNIST(folder_of(spec, data_home), split)
    if spec.name == "parquet":
        from star.data.parquet import ParquetImages
        from star.data.parquet_files import ParquetFiles

        return ParquetImages(ParquetFiles.of(folder_of(spec, data_home), spec), split, spec, threads)
    return ImageFolder(ClassFolders.of(Tree.of(folder_of(spec, data_home)), spec), split, spec, threads)


class FashionMNIST:
    """One split of Fashion-MNIST, read from its IDX files into memory."""

    def __init__(self, folder: Path, split: Split) -> None:
        part = "train" if split == "train" else "t10k"
        pixels = np.fromfile(folder / f"{part}-images-idx3-ubyte", dtype=np.uint8)[16:]
        self.images = pixels.reshape(-1, 28, 28, 1)
        self.labels = np.fromfile(folder / f"{part}-labels-idx1-ubyte", dtype=np.uint8)[8:].astype(np.int64)
        self.numbers, self.total = np.arange(len(self.labels)), len(self.labels)

    def read(self, indices: NDArray[np.int64], side: int, enlarge: str) -> Images:
        images = self.images[indices]
        if enlarge == "pad" and side >= 28:
            before = (side - 28) // 2
            after = side - 28 - before
            return np.pad(images, ((0, 0), (before, after), (before, after), (0, 0)))
        return np.stack([square(image, side, "resize") for image in images])

    def read_sides(self, indices: NDArray[np.int64], sides: list[int], enlarge: str) -> list[Images]:
        return [self.read(indices, side, enlarge) for side in sides]

    def problems(self, indices: NDArray[np.int64]) -> Iterator[str | None]:
        return (None for _ in indices)

    def listing(self) -> str:
        return listing_of([], self.labels)

"""Where images come from: what is there, what names it (its fingerprint), and how a batch of it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from star.data import fetch
from star.data.pixels import SUFFIXES, Images, decoded, square
from star.errors import DataError
from star.spec.images import DataSpec

Split = Literal["train", "test"]
VALIDATION = ("val", "test")
"""How names of parquet files of the held-out split begin, the better one first."""


class ImageSource(Protocol):
    """All images of one split, in a fixed order."""

    labels: NDArray[np.int64]

    def read(self, indices: NDArray[np.int64], side: int, enlarge: str) -> Images:
        """Images (B, side, side, C): centre square, brought to `side` pixels."""
        ...

    def read_sides(self, indices: NDArray[np.int64], sides: list[int], enlarge: str) -> list[Images]:
        """The same for several sides, each image decoded once."""
        ...

    def problems(self, indices: NDArray[np.int64]) -> Iterator[str | None]:
        """For each image what is wrong with it, None if nothing; decodes it to the last pixel."""
        ...


def folder_of(spec: DataSpec, data_home: Path) -> Path:
    """Where the images of a spec lie on this machine."""
    return Path(spec.path) if spec.path else data_home / spec.name


def missing(spec: DataSpec, data_home: Path) -> str | None:
    """What to say when the images are not there; None when they are."""
    folder = folder_of(spec, data_home)
    if spec.name == "fashion-mnist":
        return (
            None
            if fetch.is_complete(folder)
            else f"Fashion-MNIST is not in {folder}; run `star-exp data fetch fashion-mnist`."
        )
    wanted = "*.parquet files" if spec.name == "parquet" else "one subfolder per class"
    return None if folder.is_dir() else f"data.path: {folder} is no folder; give one with {wanted}."


def fingerprint(spec: DataSpec, data_home: Path) -> str:
    """What names the images in a key: content hashes for Fashion-MNIST, names and sizes for a folder.

    A folder that is not there has the fingerprint `absent`: its experiment can be planned but not run.
    """
    if spec.name == "fashion-mnist":
        return hashlib.sha256("".join(fetch.SHA256.values()).encode()).hexdigest()[:16]
    if missing(spec, data_home):
        return "absent"
    root = folder_of(spec, data_home)
    names = (
        [path.name for path in parquet_files(root)] if spec.name == "parquet" else _Listing.of(spec, data_home).files
    )
    return hashlib.sha256("\n".join(f"{name}:{(root / name).stat().st_size}" for name in names).encode()).hexdigest()[
        :16
    ]


def open_source(spec: DataSpec, data_home: Path, split: Split, threads: int = 1) -> ImageSource:
    """The images of a split.

    Args:
        threads: how many images are decoded at a time.

    Raises:
        DataError: they are missing, or a class has no folder.
    """
    reason = missing(spec, data_home)
    if reason:
        raise DataError(reason)
    if spec.name == "fashion-mnist":
        return FashionMNIST(folder_of(spec, data_home), split)
    if spec.name == "parquet":
        from star.data.parquet import ParquetImages

        return ParquetImages(parquet_files(folder_of(spec, data_home)), split, spec, threads)
    return ImageFolder(_Listing.of(spec, data_home), split, spec, threads)


def parquet_files(root: Path) -> list[Path]:
    """The files of a parquet image data set, in the order of their names.

    Raises:
        DataError: there are none.
    """
    files = sorted(root.glob("*.parquet"))
    if not files:
        raise DataError(f"data.path: {root} holds no *.parquet; give the folder that has train-*.parquet.")
    return files


def is_held_out(name: str, test_fraction: float) -> bool:
    """Whether an image belongs to the test split where nothing else says so: a fixed share, by the hash of its name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 < test_fraction


class FashionMNIST:
    """The IDX files, in memory."""

    def __init__(self, folder: Path, split: Split) -> None:
        part = "train" if split == "train" else "t10k"
        pixels = np.fromfile(folder / f"{part}-images-idx3-ubyte", dtype=np.uint8)[16:]
        self.images = pixels.reshape(-1, 28, 28, 1)
        self.labels = np.fromfile(folder / f"{part}-labels-idx1-ubyte", dtype=np.uint8)[8:].astype(np.int64)

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


class Decoded:
    """Images that are decoded one by one, several at a time."""

    labels: NDArray[np.int64]

    def __init__(self, spec: DataSpec, threads: int) -> None:
        self.channels, self.num_classes = spec.channels, spec.num_classes
        self.pool = ThreadPoolExecutor(threads)

    def load(self, index: int) -> Images:
        """One image (H, W, C), or DataError."""
        raise NotImplementedError

    def read(self, indices: NDArray[np.int64], side: int, enlarge: str) -> Images:
        return self.read_sides(indices, [side], enlarge)[0]

    def read_sides(self, indices: NDArray[np.int64], sides: list[int], enlarge: str) -> list[Images]:
        def one(index: int) -> list[Images]:
            image = self.load(index)
            return [square(image, side, enlarge) for side in sides]

        read = list(self.pool.map(one, indices.tolist()))
        return [np.stack(images) for images in zip(*read, strict=True)]

    def problems(self, indices: NDArray[np.int64]) -> Iterator[str | None]:
        def one(index: int) -> str | None:
            if not 0 <= self.labels[index] < self.num_classes:
                return f"image {index}: its label is {self.labels[index]}, not 0 to {self.num_classes - 1}"
            try:
                self.load(index)
            except DataError as error:
                return str(error)
            return None

        return self.pool.map(one, indices.tolist())


@dataclass(frozen=True)
class _Listing:
    """An image folder's files, sorted: `class/name`, or `train/class/name` and `val/class/name`."""

    root: Path
    files: list[str]
    split_folders: bool

    @classmethod
    def of(cls, spec: DataSpec, data_home: Path) -> _Listing:
        root = folder_of(spec, data_home)
        files = sorted(
            str(p.relative_to(root)) for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
        )
        if not files:
            raise DataError(
                f"data.path: {root} holds no image ({', '.join(sorted(SUFFIXES))}); give one with one subfolder per class."
            )
        return cls(root, files, any(name.startswith("train/") and name.count("/") > 1 for name in files))


class ImageFolder(Decoded):
    """One subfolder per class; classes are numbered in the order of their names."""

    def __init__(self, listing: _Listing, split: Split, spec: DataSpec, threads: int) -> None:
        super().__init__(spec, threads)
        self.root = listing.root
        self.files = [name for name in listing.files if _split_of(name, listing, spec.test_fraction) == split]
        classes = {name: i for i, name in enumerate(sorted({Path(name).parent.name for name in listing.files}))}
        if len(classes) != spec.num_classes:
            raise DataError(
                f"data.num_classes: {spec.num_classes}, but {self.root} has {len(classes)} class folders; write that number."
            )
        self.labels = np.array([classes[Path(name).parent.name] for name in self.files], dtype=np.int64)

    def load(self, index: int) -> Images:
        path = self.root / self.files[index]
        return decoded(path, self.channels, str(path))


def _split_of(name: str, listing: _Listing, test_fraction: float) -> Split:
    if listing.split_folders:
        return "train" if name.split("/")[0] == "train" else "test"
    return "test" if is_held_out(name, test_fraction) else "train"

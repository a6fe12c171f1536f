"""Image sets on disk, read batch by batch: a folder, an .npz with `arr_0` as in ADM's sample files, or an .npy.

Memory holds a few batches, whatever the number of images. `notes` says what was converted.
"""

from __future__ import annotations

import hashlib
import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from star.data.folders import EXTENSIONS, Tree
from star.data.pixels import Images, decoded
from star.data.splits import role
from star.errors import DataError
from star.sniff import misnamed
from star.words import shown

UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, SyntaxError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError),
)
"""Errors that NumPy and zipfile raise for files that are damaged, encrypted, or not archives."""


class ImageSet(Protocol):
    """N images of one size."""

    path: Path
    notes: list[str]
    """What is done to the images to make them RGB bytes."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def batches(self, size: int) -> Iterator[Images]:
        """Yield all images in order, as uint8 batches (B, H, W, 3) of at most `size` images."""
        ...

    def fingerprint(self) -> str:
        """A digest of the images' content."""
        ...


def open_images(path: Path, threads: int = 1) -> ImageSet:
    """Open the image set at `path`.

    Args:
        threads: how many images of a folder are decoded at a time.

    Raises:
        DataError: there are no images, or they are not 8-bit images. `batches` raises it if a folder's sizes differ.
    """
    if path.is_dir():
        return FolderImages(path, threads)
    if not path.is_file():
        raise DataError(f"{shown(path)}: is not there; give a folder of images, an .npz with arr_0, or an .npy.")
    if path.suffix.lower() == ".npz":
        return ArrayImages(path, "arr_0")
    if path.suffix.lower() == ".npy":
        return ArrayImages(path, None)
    raise DataError(
        f"{shown(path)}: {path.suffix or 'no suffix'} is no set of images; give a folder, an .npz with arr_0, or an .npy."
    )


def first_images(images: ImageSet) -> Images:
    """The first images of a set, up to 64, as uint8 (B, H, W, 3).

    Raises:
        DataError: their values are 0 and 1: they are of another range, or masks.
    """
    first = next(images.batches(64))
    if first.max() == 1:
        raise DataError(
            f"{shown(images.path)}: its first {len(first)} images have no value above 1, and images are uint8 from 0 to 255: scale them "
            "first."
        )
    return first


def member_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each array in an .npz, without reading it; none if it is no zip archive, or a damaged one."""
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {}
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as file:
                        shapes[name.removesuffix(".npy")] = _header(file)[0]
            return shapes
    except UNREADABLE:
        return {}


class FolderImages:
    """All image files below a folder, listed by star.data.folders: links are followed, hidden files are ignored.

    Images of several subfolders come in a random order, the same each time. What is not 8-bit RGB is converted; `notes` says how.

    Raises:
        DataError: there are no images, or the first cannot be decoded.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self.threads = path, threads
        tree = Tree.of(path)
        names = tree.everything()
        if not names:
            raise DataError(f"{shown(path)}: holds no image ({', '.join(EXTENSIONS)}).")
        self.notes: list[str] = tree.notes()
        splits = [name for name in tree.top() if role(name)]
        if len(splits) > 1:
            self.notes.append(
                f"images of {', '.join(map(shown, splits))} are taken together; give one of them to choose"
            )
        if len({name.rpartition("/")[0] for name in names}) > 1:
            # subfolders are mostly classes, and each split of the inception score needs all of them
            names = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
            self.notes.append("images of several subfolders are taken in a fixed random order")
        self.files = [path / name for name in names]
        self._shape: tuple[int, int] = self._read(self.files[0], None).shape[:2]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def batches(self, size: int) -> Iterator[Images]:
        with ThreadPoolExecutor(self.threads) as pool:
            for first in range(0, len(self), size):
                read = pool.map(lambda path: self._read(path, self._shape), self.files[first : first + size])
                yield np.stack(list(read))

    def _read(self, path: Path, shape: tuple[int, int] | None) -> Images:
        pixels = decoded(path, 3, str(path), self._note)
        if shape is not None and pixels.shape[:2] != shape:
            raise DataError(
                f"{shown(path)}: is {pixels.shape[1]} x {pixels.shape[0]} pixels, {shown(self.files[0].name)} is "
                f"{shape[1]} x {shape[0]}; all images of a set have one size: crop or resize them first."
            )
        return pixels

    def _note(self, said: str) -> None:
        if said not in self.notes:
            self.notes.append(said)

    def fingerprint(self) -> str:
        """A digest of the contents of all files, in their order."""
        whole = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()


class ArrayImages:
    """A uint8 array (N, H, W, 3), (N, H, W, 1) or (N, H, W), streamed from an .npz or .npy file.

    Args:
        member: the array's name in an .npz; None for an .npy.
    """

    def __init__(self, path: Path, member: str | None) -> None:
        self.path, self.member = path, member
        try:
            with self._opened() as file:
                self._full_shape, fortran, dtype = _header(file)
        except UNREADABLE as error:
            raise DataError(f"{shown(path)}: cannot be read as an array: {error}.") from None
        what = f"{shown(path)}: {member or 'the array'} is {dtype} {self._full_shape}"
        if dtype != np.uint8:
            hint = ", so scale and round them first" if dtype.kind == "f" else ""
            raise DataError(f"{what}; images are uint8 from 0 to 255{hint}.")
        if len(self._full_shape) not in (3, 4) or (len(self._full_shape) == 4 and self._full_shape[3] not in (1, 3)):
            hint = "; move the channels to the end" if self._full_shape[1:2] in ((1,), (3,)) else ""
            raise DataError(f"{what}; images are (N, height, width, 3), or grey with 1 channel or none{hint}.")
        if self._full_shape[3:] == () and self._full_shape[2] in (1, 3, 4):
            raise DataError(f"{what}: that looks like one image; images are (N, height, width, 3).")
        if 0 in self._full_shape[1:3]:
            raise DataError(f"{what}: images without pixels.")
        if fortran:
            raise DataError(f"{what} in Fortran order; save np.ascontiguousarray of it.")
        if self._full_shape[0] < 1:
            raise DataError(f"{shown(path)}: holds no images.")
        grey = self._full_shape[3:] != (3,)
        self.notes = ["grey images are repeated to RGB"] if grey else []

    def __len__(self) -> int:
        return self._full_shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self._full_shape[1], self._full_shape[2]

    def batches(self, size: int) -> Iterator[Images]:
        height, width = self.shape
        channels = self._full_shape[3] if len(self._full_shape) == 4 else 1
        each = height * width * channels
        with self._opened() as file:
            _header(file)
            for first in range(0, len(self), size):
                count = min(size, len(self) - first)
                try:
                    content = file.read(count * each)
                except (*UNREADABLE, MemoryError, OverflowError) as error:  # damage shows only when it is read
                    raise DataError(f"{shown(self.path)}: image {first} and after cannot be read: {error}.") from None
                if len(content) != count * each:
                    raise DataError(
                        f"{shown(self.path)}: is cut short after image {first + len(content) // each - 1} of {len(self)}."
                    )
                pixels = np.frombuffer(content, dtype=np.uint8).reshape(count, height, width, channels)
                yield pixels if channels == 3 else np.repeat(pixels, 3, axis=3)

    def _opened(self) -> Any:
        if self.member is None:
            return self.path.open("rb")
        if not zipfile.is_zipfile(self.path):
            reason = misnamed(self.path) or "it is no .npz archive, or is cut short"
            raise DataError(f"{shown(self.path)}: cannot be read as an array: {reason}.")
        archive = zipfile.ZipFile(self.path)
        name = f"{self.member}.npy"
        if name not in archive.namelist():
            has = ", ".join(sorted(entry.removesuffix(".npy") for entry in archive.namelist())) or "nothing"
            raise DataError(f"{shown(self.path)}: has no {self.member} with images; it has: {has}.")
        return archive.open(name)

    def fingerprint(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read an .npy header: shape, whether in Fortran order, and dtype. Leaves the file at the start of the data."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype

"""Where images come from: what is there, what names it (its fingerprint), and how a batch of it is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from star.data import fetch
from star.errors import DataError
from star.spec.images import DataSpec

Split = Literal["train", "test"]
Images = NDArray[np.uint8]
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class ImageSource(Protocol):
    """All images of one split, in a fixed order."""

    labels: NDArray[np.int64]

    def read(self, indices: NDArray[np.int64], side: int, enlarge: str) -> Images:
        """Images (B, side, side, C): centre square, brought to `side` pixels."""
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
    return None if folder.is_dir() else f"data.path: {folder} is no folder; give one with one subfolder per class."


def fingerprint(spec: DataSpec, data_home: Path) -> str:
    """What names the images in a key: content hashes for Fashion-MNIST, names and sizes for a folder.

    A folder that is not there has the fingerprint `absent`: its experiment can be planned but not run.
    """
    if spec.name == "fashion-mnist":
        return hashlib.sha256("".join(fetch.SHA256.values()).encode()).hexdigest()[:16]
    if missing(spec, data_home):
        return "absent"
    listing = _Listing.of(spec, data_home)
    return hashlib.sha256(
        "\n".join(f"{name}:{(listing.root / name).stat().st_size}" for name in listing.files).encode()
    ).hexdigest()[:16]


def open_source(spec: DataSpec, data_home: Path, split: Split) -> ImageSource:
    """The images of a split.

    Raises:
        DataError: they are missing, or a class has no folder.
    """
    reason = missing(spec, data_home)
    if reason:
        raise DataError(reason)
    if spec.name == "fashion-mnist":
        return FashionMNIST(folder_of(spec, data_home), split)
    return ImageFolder(_Listing.of(spec, data_home), split, spec)


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
        return np.stack([center_crop(image, side) for image in images])


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


class ImageFolder:
    """One subfolder per class; classes are numbered in the order of their names."""

    def __init__(self, listing: _Listing, split: Split, spec: DataSpec) -> None:
        self.root, self.channels = listing.root, spec.channels
        chosen = [name for name in listing.files if _split_of(name, listing, spec.test_fraction) == split]
        classes = sorted({Path(name).parent.name for name in listing.files})
        if len(classes) != spec.num_classes:
            raise DataError(
                f"data.num_classes: {spec.num_classes}, but {self.root} has {len(classes)} class folders; write that number."
            )
        self.files = chosen
        self.labels = np.array([classes.index(Path(name).parent.name) for name in chosen], dtype=np.int64)

    def read(self, indices: NDArray[np.int64], side: int, enlarge: str) -> Images:
        from PIL import Image, UnidentifiedImageError

        images = []
        for index in indices:
            path = self.root / self.files[index]
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("L" if self.channels == 1 else "RGB"))
            except (OSError, UnidentifiedImageError, ValueError) as error:
                raise DataError(f"{path}: cannot be read as an image: {error}.") from None
            pixels = pixels.reshape(*pixels.shape[:2], self.channels)
            images.append(_padded(pixels, side) if enlarge == "pad" else center_crop(pixels, side))
        return np.stack(images)


def _split_of(name: str, listing: _Listing, test_fraction: float) -> Split:
    top = name.split("/")[0]
    if listing.split_folders:
        return "train" if top == "train" else "test"
    share = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
    return "test" if share < test_fraction else "train"


def _padded(image: Images, side: int) -> Images:
    image = center_crop(image, min(side, *image.shape[:2]))
    before = (side - image.shape[0]) // 2
    after = side - image.shape[0] - before
    return np.pad(image, ((before, after), (before, after), (0, 0)))


def center_crop(image: Images, side: int) -> Images:
    """ADM's centre crop of (H, W, C): halve with a box filter while twice too large, bicubic to `side`, cut the centre."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side].reshape(side, side, image.shape[-1])

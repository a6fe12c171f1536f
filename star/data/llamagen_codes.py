"""Codes made by LlamaGen's extraction script, one .npy file per image, imported instead of encoding again.

FOLDER/*_codes/I.npy    int64 (1, 10, T): ten crops of image I, in the order of torchvision's ImageFolder
FOLDER/*_labels/I.npy   int64 (1,)
FOLDER_105/...          the same for the second crop range
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from star.data.codes import LEFT_OUT
from star.data.places import codes_part
from star.errors import PASSING, DataError, has_errno
from star.pipeline.dataset import NUM_VIEWS, codes_folders
from star.sniff import misnamed
from star.words import shown

MOST_RANKS = 1024
"""Most ranks that an extraction may have run on."""


class LlamaGenCodes:
    """Reads a folder of codes image by image and checks every file.

    Args:
        ranges: number of crop ranges, of ten views each; the second lies in a sibling whose name ends in `_105`.
        length: T, codes per view.
        skip: label an image with a wrong file LEFT_OUT (stage `encode` counts these) instead of raising.

    Raises:
        DataError: the folder does not have the layout above.
    """

    def __init__(self, folder: Path, ranges: int, length: int, codebook_size: int, skip: bool) -> None:
        self.codes = [codes_part(path, "codes") for path in codes_folders(folder, ranges)]
        self.labels = [codes_part(path, "labels") for path in codes_folders(folder, ranges)]
        self.length, self.codebook_size, self.skip = length, codebook_size, skip

    def check_count(self, images: int) -> None:
        """Check that there are as many codes as images; otherwise images would get the codes of other images.

        An extraction on several ranks pads to a multiple of their number: the first images repeat after the last.

        Raises:
            DataError: codes are missing (unless `skip`), or belong to more images.
        """
        for folder in (*self.labels, *self.codes):
            numbers = {int(name[:-4]) for name in os.listdir(folder) if name.endswith(".npy") and name[:-4].isdecimal()}
            highest = max(numbers, default=-1) + 1
            beyond = highest - images
            fits = beyond < MOST_RANKS and all(
                self._repeats(folder, number, images) for number in range(images, highest)
            )
            if not fits or (not self.skip and min(len(numbers), highest) < images):
                raise DataError(
                    f"data.codes: {shown(folder)} numbers {min(len(numbers), highest)} images and the images' folder has {images}, so "
                    "the numbers would not fit; give the codes of this folder as it is, or the folder as it was when they were extracted."
                )

    def _repeats(self, folder: Path, number: int, images: int) -> bool:
        files = [folder / f"{one}.npy" for one in (number, number - images)]
        return not files[0].exists() or bool(np.array_equal(_loaded(files[0]), _loaded(files[1])))

    def read(
        self, images: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Codes (n, views, T) and labels (n,) of the images with these numbers; label LEFT_OUT where a file is wrong.

        Args:
            labels: the images' classes (n,) according to their own folder.

        Raises:
            DataError: a file is wrong (unless `skip`); the message names it.
        """
        codes = np.zeros((len(images), NUM_VIEWS * len(self.codes), self.length), dtype=np.uint16)
        found = labels.copy()
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            try:
                self._check_label(int(image), int(label))
                codes[row] = np.concatenate([self._views(folder / f"{image}.npy") for folder in self.codes])
            except DataError:
                if not self.skip:
                    raise
                found[row] = LEFT_OUT
        return codes, found

    def _views(self, path: Path) -> NDArray[np.int64]:
        views = _loaded(path)
        if views.shape not in ((1, NUM_VIEWS, self.length), (NUM_VIEWS, self.length)):
            raise DataError(f"{path}: has shape {views.shape}; wanted is (1, {NUM_VIEWS}, {self.length}).")
        if views.dtype.kind not in "iu" or views.min() < 0 or views.max() >= self.codebook_size:
            raise DataError(f"{path}: holds more than codes 0 to {self.codebook_size - 1}.")
        return views.reshape(NUM_VIEWS, self.length)

    def _check_label(self, image: int, label: int) -> None:
        for folder in self.labels:
            self._check_one(folder / f"{image}.npy", label)

    def _check_one(self, path: Path, label: int) -> None:
        own = _loaded(path)
        if own.size != 1 or own.dtype.kind not in "iuf" or own.reshape(-1)[0] != label:
            raise DataError(
                f"{path}: says class {own.reshape(-1)[:3].tolist()}, the images' folder {label}; are the codes of these images?"
            )


def _loaded(path: Path) -> NDArray[np.int64]:
    try:
        array: NDArray[np.int64] = np.load(path)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive of arrays (.npz); give one array")
    except (OSError, ValueError, EOFError) as error:
        if has_errno(error, PASSING):
            raise
        reason = "it holds Python objects, no numbers" if "allow_pickle" in str(error) else misnamed(path) or error
        raise DataError(f"{shown(path)}: cannot be read as codes: {reason}.") from None
    return array

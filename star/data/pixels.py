"""From an encoded image to the square that crops are cut from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from star.errors import DataError

Images = NDArray[np.uint8]
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
"""Of files that are taken as images."""


def decoded(source: Path | bytes, channels: int, name: str) -> Images:
    """An image (H, W, C) from a file or from encoded bytes.

    Raises:
        DataError: it cannot be decoded to the last pixel; `name` says which.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: cannot be read as an image: {error}.") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def square(image: Images, side: int, enlarge: str) -> Images:
    """(H, W, C) -> (side, side, C): the centre, resized, or with a zero border where it is too small."""
    if enlarge != "pad":
        return center_crop(image, side)
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

"""From an encoded image to the square that crops are cut from. All images are decoded here."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from star.errors import PASSING, DataError, has_errno
from star.sniff import misnamed
from star.words import shown

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFile import ImageFile

Images = NDArray[np.uint8]
Note = Callable[[str], None]
"""Receives a message for each thing that was done to an image beyond decoding it."""
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF", "JPEG2000", "TGA")
"""What is read under any ending (JPEG with the MPO of cameras). PostScript is not: Pillow would have Ghostscript run it."""
PLAIN_MODES = {"RGB", "L", "1", "P", "PA", "RGBA", "RGBa", "LA", "La", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
"""Modes that Pillow converts to 8-bit RGB without choosing a range of values."""
SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I;16N"}
IN_MEMORY = 1 << 25
"""Pixels above which a JPEG is decoded at 1/2, 1/4 or 1/8 of its sides, as its format allows."""
LARGEST = 1 << 26
"""Pixels above which an image that cannot be shrunk during decoding is refused: a quarter of a gigabyte."""
ROWS = 256
"""Image rows that are converted at a time."""
BITS_PER_SAMPLE = 0x0102
"""TIFF's tag: Pillow gives 10, 12 and 14 bits as they are, in the mode of 16."""
PHOTOMETRIC, WHITE_IS_ZERO = 0x0106, 0
"""TIFF's tag PhotometricInterpretation and its value WhiteIsZero; Pillow inverts such images only at 8 bits."""
SRGB = (b"sRGB", "sRGB".encode("utf-16-be"))
"""What the description of a colour profile holds if it is sRGB's; versions 2 and 4 of the format write it differently."""
ORIENTATION = 0x0112
"""EXIF's orientation tag; 1 is upright."""
LONG = 8
"""Ratio of sides above which an image is cropped before it is resized, so memory does not grow with the longer side."""


def silent(note: str) -> None:
    """Ignore the message: the default `Note`."""


def decoded(source: Path | bytes, channels: int, name: str, note: Note = silent) -> Images:
    """Decode a file or encoded bytes to an image (H, W, C) in its own size.

    Args:
        name: what error messages call the image.
        note: receives what was converted: 16 bits by their range, colour to grey, alpha dropped, EXIF rotation ignored.

    Raises:
        DataError: it cannot be decoded to the last pixel, is too large, or its mode has no known range.
    """
    return array(_decoded(source, channels, name, note, None), channels)


def decoded_squares(
    source: Path | bytes, channels: int, name: str, sides: list[int], enlarge: str, note: Note = silent
) -> list[Images]:
    """The centre squares (side, side, C) of one image for each of `sides`, decoded once.

    A JPEG of more than 2^25 pixels is decoded at a fraction of its size if the largest side allows it; others are held whole.

    Args:
        enlarge: `resize`, or `pad`, which gives images smaller than `side` a zero border instead.

    Raises:
        DataError: as `decoded`.
    """
    picture = _decoded(source, channels, name, note, 2 * max(sides))
    if min(picture.size) < max(sides):
        note(
            f"images of fewer than {max(sides)} pixels a side {'get a border' if enlarge == 'pad' else 'are enlarged'}"
        )
    return [array(_square(picture, side, enlarge), channels) for side in sides]


def _decoded(source: Path | bytes, channels: int, name: str, note: Note, least: int | None) -> Picture:
    """Decode to 8-bit grey (`channels` 1) or RGB.

    Args:
        least: pixels that both sides must keep if the image is shrunk during decoding; None forbids shrinking.
    """
    from PIL import Image

    warnings.filterwarnings("ignore", "Palette images with Transparency", module="PIL")  # reported as a note
    Image.MAX_IMAGE_PIXELS = None  # replaced by our limits, which depend on whether the image can be shrunk
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > IN_MEMORY and least is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (max(least, width // 8), max(least, height // 8)))
                if image.size != (width, height):
                    note("very large JPEGs are decoded at a fraction of their size")
            if image.width * image.height > LARGEST:
                raise DataError(
                    f"{shown(name)}: has {width} x {height} pixels, too many to hold in memory; make it smaller, or take it out."
                )
            _say(image, note)
            picture: Picture = image
            tags = getattr(image, "tag_v2", {})
            negative = image.mode in SIXTEEN_BITS and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
            bits = tags.get(BITS_PER_SAMPLE, (16,))[0] if image.mode in SIXTEEN_BITS else 16
            format_ = image.format
            if width * height > IN_MEMORY and least is not None and image.mode in ("L", "RGB"):
                picture = _halved(image, least)
            return _eight_bits(picture, format_, "L" if channels == 1 else "RGB", name, note, negative, bits)
    except DataError:
        raise
    except Exception as error:  # decoders may raise anything; all of it means the same
        if has_errno(error, PASSING):  # the image may be sound
            raise
        known = misnamed(source) if isinstance(source, Path) else None
        told = re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "these bytes", str(error)).replace(
            f"{source!r}", "the file"
        )
        reason = known or told or type(error).__name__
        raise DataError(f"{shown(name)}: cannot be read as an image: {shown(reason)}.") from None


def _halved(image: Picture, least: int) -> Picture:
    """Halve with a box filter while both sides keep `least` pixels: what `_center` does in steps, at once."""
    factor = 1
    while min(image.size) // (2 * factor) >= least:
        factor *= 2
    return image.reduce(factor)


def _say(image: ImageFile, note: Note) -> None:
    """Report what reading an image as 8-bit pixels loses. Call it before decoding, which drops this information."""
    arguments = [one for tile in image.tile for one in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    wide = any(isinstance(one, str) and "16" in one for one in arguments)
    wide |= image.format == "PPM" and any(isinstance(one, int) and one > 255 for one in arguments)
    if wide and image.mode in PLAIN_MODES and image.format != "BMP":  # whose 16 bits are a whole pixel's
        note("colours of 16 bits are cut to their upper 8")
    if "transparency" in image.info and image.mode in ("P", "L", "RGB", "1"):
        note("transparency is dropped")
    if getattr(image, "is_animated", False):
        note("of several frames or pages only the first is read")
    profile = image.info.get("icc_profile") or b""
    if profile[16:20] == b"RGB " and not any(name in profile for name in SRGB):
        note("colour profiles other than sRGB are not applied, as in torchvision")
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # its readers may raise anything; the pixels do not depend on it
        orientation = 1
        note("EXIF that cannot be read is ignored")
    if orientation not in (0, 1):
        if image.format == "TIFF":
            note("TIFF's orientation is applied")  # by the decoder, as in torchvision
        else:
            note("EXIF's orientation is not applied, as in torchvision: some pictures lie as the camera was held")


def _eight_bits(
    image: Picture, format_: str | None, wanted: str, name: str, note: Note, negative: bool = False, bits: int = 16
) -> Picture:
    """Convert to mode `wanted`, L or RGB.

    Args:
        negative: whether 0 is white.
        bits: of a wide image's values.
    """
    from PIL import Image

    mode = image.mode
    if mode in SIXTEEN_BITS or (mode == "I" and format_ in ("PNG", "PPM")):
        top = 2**bits - 1
        note(f"{bits}-bit grey images are brought to 8 bits: {top} becomes 255")
        image = Image.fromarray(_by_range(np.asarray(image), negative, top))
        mode = "L"
    if mode not in PLAIN_MODES:
        raise DataError(
            f"{shown(name)}: has mode {mode}, whose range nobody knows; save it as 8-bit RGB or grey, or as 16-bit grey."
        )
    if note_text := _conversion(mode, wanted):
        note(note_text)
    if mode == wanted:  # a copy would double the memory
        image.load()
        return image
    return image.convert("RGB").convert(wanted) if mode in ("LAB", "HSV") else image.convert(wanted)


def _by_range(wide: NDArray[np.integer[Any]], negative: bool, top: int) -> Images:
    """Values (H, W) from 0 to `top` scaled to 8 bits and rounded, a block of rows at a time to bound the memory."""
    found = np.empty(wide.shape, dtype=np.uint8)
    for rows in range(0, len(wide), ROWS):
        part = wide[rows : rows + ROWS].astype(np.uint32).clip(0, top)
        found[rows : rows + ROWS] = ((top - part if negative else part) * 255 + top // 2) // top
    return found


def _conversion(mode: str, wanted: str) -> str:
    """A message on what converting `mode` to `wanted` loses or adds; empty if nothing."""
    grey = mode in ("L", "1", "LA", "La")
    parts = []
    if grey and wanted == "RGB":
        parts.append("grey images are repeated to RGB")
    elif not grey and mode != wanted:
        parts.append(f"{mode} images are converted to {'grey' if wanted == 'L' else 'RGB'}")
    if mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        parts.append("alpha is dropped")
    return ", ".join(parts)


def array(picture: Picture, channels: int) -> Images:
    """The picture's pixels as an array (H, W, C)."""
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def square(image: Images, side: int, enlarge: str) -> Images:
    """(H, W, C) -> (side, side, C): the centre square, resized. If `enlarge` is `pad`, small ones get a zero border."""
    return array(_square(_picture(image), side, enlarge), image.shape[-1])


def _picture(image: Images) -> Picture:
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _square(picture: Picture, side: int, enlarge: str) -> Picture:
    from PIL import Image

    if enlarge != "pad":
        return _center(picture, side)
    inner = _center(picture, min(side, *picture.size))
    whole = Image.new(inner.mode, (side, side))
    whole.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
    return whole


def _center(picture: Picture, side: int) -> Picture:
    """ADM's centre crop: halve with a box filter while twice too large, bicubic to `side`, cut the centre."""
    from PIL import Image

    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    width, height = round(picture.width * scale), round(picture.height * scale)
    left, top = (width - side) // 2, (height - side) // 2
    if max(width, height) > LONG * side:
        across, down = picture.width / width, picture.height / height
        box = (left * across, top * down, (left + side) * across, (top + side) * down)
        return picture.resize((side, side), Image.Resampling.BICUBIC, box)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side, top + side))

"""Modes, sizes and turns of pictures: what is converted is right and said, what has no range or no room is refused."""

from __future__ import annotations

import errno
import io
import struct
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from star.data import pixels
from star.data.pixels import decoded, decoded_squares, square
from star.errors import DataError
from star.stages.context import Pixels
from tests.helpers import ROOT, tiny

RAMP = np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_brought_to_eight_by_their_range(kind: str, channels: int) -> None:
    said: list[str] = []
    found = decoded(encoded(Image.fromarray(RAMP), kind), channels, "x", said.append)
    expected = np.round(RAMP.astype(np.float64) * 255 / 65535)
    assert found.shape == (20, 20, channels) and abs(found[..., 0].astype(float) - expected).max() <= 1
    assert (found[0, 0, 0], found[-1, -1, 0]) == (0, 255) and abs(found.mean() - 127.5) < 0.5
    assert said[0] == "16-bit grey images are brought to 8 bits: 65535 becomes 255"


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_without_a_range_are_refused(kind: type) -> None:
    with pytest.raises(DataError, match="x: has mode [FI], whose range nobody knows"):
        decoded(encoded(Image.fromarray(np.zeros((4, 4), dtype=kind)), "TIFF"), 3, "x")


@pytest.mark.parametrize(
    "mode, channels, note",
    [
        ("RGB", 3, None),
        ("L", 1, None),
        ("L", 3, "grey images are repeated to RGB"),
        ("RGB", 1, "RGB images are converted to grey"),
        ("RGBA", 3, "RGBA images are converted to RGB, alpha is dropped"),
        ("LA", 1, "alpha is dropped"),
        ("P", 3, "P images are converted to RGB"),
        ("LAB", 1, "LAB images are converted to grey"),
        ("1", 1, None),
    ],
)
def test_conversions_are_said(mode: str, channels: int, note: str | None) -> None:
    said: list[str] = []
    image = Image.fromarray(np.full((8, 8, 3), 200, dtype=np.uint8)).convert(mode)
    found = decoded(encoded(image, "TIFF" if mode == "LAB" else "PNG"), channels, "x", said.append)
    assert abs(int(found[4, 4, 0]) - 200) <= (55 if mode == "1" else 6) and said == ([note] if note else [])


def test_an_exif_turn_is_said_and_not_made() -> None:
    said: list[str] = []
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.zeros((8, 16, 3), dtype=np.uint8))
    found = decoded(encoded(image, "JPEG", exif=exif), 3, "x", said.append)
    assert found.shape == (8, 16, 3) and "orientation is not applied" in said[0]


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (3, 20_000)])
@pytest.mark.parametrize("enlarge", ["resize", "pad"])
def test_a_thin_picture_costs_its_crop(shape: tuple[int, int], enlarge: str) -> None:
    source = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)), "PNG")
    tracemalloc.start()
    found = decoded_squares(source, 3, "x", [281], enlarge)[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (281, 281, 3) and peak < 4e6


@pytest.mark.parametrize("shape", [(64, 64), (75, 41), (41, 75), (300, 200), (129, 650), (31, 40)])
@pytest.mark.parametrize("side", [32, 45])
def test_the_crop_is_adms(shape: tuple[int, int], side: int) -> None:
    """Halved by boxes while twice too large, then bicubic to the shorter side, then the centre, rounded down."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = Image.fromarray(image)
    while min(expected.size) >= 2 * side:
        expected = expected.resize((expected.size[0] // 2, expected.size[1] // 2), Image.Resampling.BOX)
    factor = side / min(expected.size)
    size = (round(expected.size[0] * factor), round(expected.size[1] * factor))
    whole = np.asarray(expected.resize(size, Image.Resampling.BICUBIC))
    top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
    np.testing.assert_array_equal(square(image, side, "resize"), whole[top : top + side, left : left + side])


def test_a_thin_pictures_crop_is_that_of_the_whole_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 400, 3), dtype=np.uint8)
    quick = square(image, 30, "resize")
    monkeypatch.setattr(pixels, "LONG", 1e9)
    assert np.abs(quick.astype(int) - square(image, 30, "resize")).max() <= 1


def test_a_huge_jpeg_is_shrunk_while_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.linspace(0, 255, 2000).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(rows[:, None, None], (2000, 2000, 3)).copy())
    source, said = encoded(image, "JPEG", quality=95), []
    whole = decoded_squares(source, 3, "x", [64], "resize")[0]
    monkeypatch.setattr(pixels, "IN_MEMORY", 1 << 20)
    shrunk = decoded_squares(source, 3, "x", [64], "resize", said.append)[0]
    assert said == ["very large JPEGs are decoded at a fraction of their size"]
    assert np.abs(whole.astype(int) - shrunk).mean() < 2


def test_what_is_too_large_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pixels, "LARGEST", 1000)
    Image.fromarray(np.zeros((50, 50), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: has 50 x 50 pixels, too many to hold in memory"):
        decoded(tmp_path / "a.png", 3, str(tmp_path / "a.png"))


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 30, b"\xff\xd8\xff\xe0" + b"\0" * 30]
)
def test_what_cannot_be_decoded_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="a.png: cannot be read as an image"):
        decoded(tmp_path / "a.png", 3, str(tmp_path / "a.png"))


def png16(shape: tuple[int, ...]) -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads but does not write."""
    import struct
    import zlib

    pixels = np.full(shape, 40_000, dtype=">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    kind = {1: 0, 3: 2, 4: 6}[shape[2]]
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", shape[1], shape[0], 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_file_that_cannot_be_opened_for_the_moment_is_no_bad_image(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bad_images: skip` would leave it out for ever."""
    path = tmp_path / "sound.png"
    Image.new("L", (4, 4)).save(path)

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(OSError, match="Too many open files"):
        decoded(path, 1, "sound.png")


def test_colours_of_sixteen_bits_are_said() -> None:
    said: list[str] = []
    ppm = b"P6 4 4 65535\n" + np.full((4, 4, 3), 40_000, dtype=">u2").tobytes()
    for source in (png16((4, 4, 3)), png16((4, 4, 4)), ppm):
        said.clear()
        found = decoded(source, 3, "x", said.append)
        assert abs(int(found[0, 0, 0]) - 156) <= 1 and said[0] == "colours of 16 bits are cut to their upper 8"


def test_a_tiff_whose_zero_is_white_is_no_negative() -> None:
    half = np.zeros((8, 8), dtype=np.uint16)
    half[:4] = 65535
    plain, turned = (encoded(Image.fromarray(half), "TIFF", tiffinfo={262: kind}) for kind in (1, 0))
    assert decoded(plain, 1, "x")[0, 0, 0] == 255 and decoded(turned, 1, "x")[0, 0, 0] == 0


def test_twelve_bits_are_brought_to_eight_by_their_range() -> None:
    """As microscopes write them, packed: two values in three bytes."""
    values = np.linspace(0, 4095, 64).round().astype(int).reshape(8, 8)
    packed = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in values.reshape(-1, 2))
    tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8), (279, len(packed))]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    file = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)
    said: list[str] = []
    found = decoded(file, 1, "x.tif", said.append)
    assert np.abs(found[..., 0] - np.round(values * 255 / 4095)).max() <= 1
    assert said == ["12-bit grey images are brought to 8 bits: 4095 becomes 255"]


def test_a_tiffs_turn_is_made_and_said() -> None:
    """By its decoder, in torchvision too."""
    said: list[str] = []
    image = Image.fromarray(np.zeros((8, 16, 3), dtype=np.uint8))
    found = decoded(encoded(image, "TIFF", tiffinfo={274: 6}), 3, "x", said.append)
    assert (found.shape == (16, 8, 3)) == ("TIFF's orientation is applied" in said)


def test_transparency_and_further_frames_are_said(recwarn: pytest.WarningsRecorder) -> None:
    said: list[str] = []
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P")
    decoded(encoded(image, "PNG", transparency=bytes(range(64))), 3, "x", said.append)
    assert "transparency is dropped" in said and not recwarn.list
    said.clear()
    decoded(encoded(image, "TIFF", save_all=True, append_images=[image]), 3, "x", said.append)
    assert "of several frames or pages only the first is read" in said


PADDED = {"image_size": 48, "pad_to": 32, "enlarge": "resize"}


def test_what_is_padded_first_shows_the_same_at_every_side(images: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", indices=np.array([3, 4]), labels=np.array([0, 1]))
    home = ROOT / "runs" / "data"

    def read(**data: object) -> Pixels:
        spec = tiny(**{f"data__{name}": value for name, value in data.items()})
        ctx = SimpleNamespace(spec=spec, inputs={"dataset": tmp_path}, data_home=home, threads=1, plugins={})
        return Pixels(ctx, "train")  # type: ignore[arg-type]

    both = slice(0, 2)
    small = read(image_size=32, enlarge="pad").plain(both)
    large = read(image_size=48, pad_to=32, enlarge="resize")
    assert small[:, :2].max() == 0 and large.plain(both)[:, :2].max() == 0
    assert (large.plain(both) == np.stack([square(image, 48, "resize") for image in small])).all()
    # the crops show things as large, too: the share of the frame that is bright
    views = [read(**one, crop_range=1.07).views(both) for one in ({"image_size": 32, "enlarge": "pad"}, PADDED)]
    bright = [(one > 40).mean() for one in views]
    assert bright[1] == pytest.approx(bright[0], rel=0.04), "6% more of each side would be 13% more"
    filled = read(image_size=48, enlarge="resize").plain(both)
    assert (filled != large.plain(both)).any() and large.views(both).shape == (2, 10, 48, 48, 1)
    with pytest.raises(ValidationError, match="give enlarge: resize"):
        read(image_size=48, pad_to=32, enlarge="pad")

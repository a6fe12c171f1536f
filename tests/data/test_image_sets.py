"""Sets of images: what is read, what is converted and said, what is refused and how."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from star.data.image_sets import open_images
from star.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (11, 6, 8, 3), dtype=np.uint8)


def everything(path: Path, size: int = 4) -> np.ndarray:
    return np.concatenate(list(open_images(path, 2).batches(size)))


def folder_of(path: Path, images: np.ndarray) -> Path:
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


@pytest.mark.parametrize("kind", ["folder", "npz", "compressed npz", "npy"])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_images_come_in_order_and_whole(kind: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    if kind == "folder":
        path = folder_of(tmp_path / "set", RGB)
    elif kind == "npz":
        np.savez(path, arr_0=RGB)
    elif kind == "compressed npz":
        np.savez_compressed(path, arr_0=RGB)
    else:
        path = tmp_path / "set.npy"
        np.save(path, RGB)
    images = open_images(path)
    assert (len(images), images.shape, images.notes) == (11, (6, 8), [])
    batches = list(images.batches(size))
    assert max(map(len, batches)) == min(size, 11)
    np.testing.assert_array_equal(np.concatenate(batches), RGB)


@pytest.mark.parametrize("shape", [(11, 6, 8), (11, 6, 8, 1)])
def test_grey_arrays_are_repeated_and_it_is_said(shape: tuple[int, ...], tmp_path: Path) -> None:
    grey = RGB[..., 0]
    np.savez(tmp_path / "grey.npz", arr_0=grey.reshape(shape))
    np.testing.assert_array_equal(everything(tmp_path / "grey.npz"), np.repeat(grey[..., None], 3, axis=3))
    assert open_images(tmp_path / "grey.npz").notes == ["grey images are repeated to RGB"]


def test_conversions_of_files_are_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mixed", RGB[:2])
    Image.fromarray(RGB[2, ..., 0]).save(folder / "grey.png")
    Image.fromarray(np.concatenate([RGB[3], RGB[3, ..., :1]], axis=-1)).save(folder / "with_alpha.png")
    images = open_images(folder)
    read = np.concatenate(list(images.batches(2)))
    assert images.notes == ["grey images are repeated to RGB", "RGBA images are converted to RGB, alpha is dropped"]
    np.testing.assert_array_equal(read[3], RGB[3])


def test_an_archive_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than a batch at a time, so that 50,000 images need no 10 GB."""
    np.savez(tmp_path / "set.npz", arr_0=RGB)
    largest, read = 0, zipfile.ZipExtFile.read

    def watched(self: zipfile.ZipExtFile, n: int = -1) -> bytes:
        nonlocal largest
        content = read(self, n)
        largest = max(largest, len(content))
        return content

    monkeypatch.setattr(zipfile.ZipExtFile, "read", watched)
    everything(tmp_path / "set.npz", size=2)
    assert largest == 2 * RGB[0].size


def bad(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name -> a set that is none, and what is said of it."""
    arrays = {
        "float": (RGB.astype(np.float32) / 255, "is float32 .* scale and round"),
        "channels first": (RGB.transpose(0, 3, 1, 2).copy(), "move the channels to the end"),
        "four channels": (RGB.repeat(2, axis=3)[..., :4].copy(), "grey with 1 channel or none"),
        "grey image": (RGB[0, ..., 0].copy(), r"images are \(N, height, width, 3\)"),
        "one image": (RGB[0], "looks like one image"),
        "no pixels": (RGB[:, :0], "images without pixels"),
        "empty": (RGB[:0], "holds no images"),
        "fortran": (np.asfortranarray(RGB), "Fortran"),
    }
    found = {}
    for name, (array, message) in arrays.items():
        np.savez(folder / f"{name}.npz", arr_0=array)
        found[name] = (folder / f"{name}.npz", message)
    np.savez(folder / "other key.npz", images=RGB)
    found["other key"] = (folder / "other key.npz", "has no arr_0 with images; it has: images")
    (folder / "text.npz").write_text("no archive")
    found["no archive"] = (folder / "text.npz", "cannot be read as an array")
    (folder / "empty folder").mkdir()
    found["empty folder"] = (folder / "empty folder", "holds no image")
    (folder / "notes.txt").write_text("?")
    found["another file"] = (folder / "notes.txt", "is no set of images")
    found["absent"] = (folder / "absent.npz", "is not there")
    sizes = folder_of(folder / "sizes", RGB[:2])
    Image.fromarray(RGB[2, :5]).save(sizes / "smaller.png")
    found["two sizes"] = (sizes, "smaller.png: is 8 x 5 pixels, 000.png is 8 x 6")
    broken = folder_of(folder / "broken", RGB[:2])
    (broken / "003.png").write_bytes((broken / "001.png").read_bytes()[:60])
    found["half a file"] = (broken, "003.png: cannot be read as an image")
    deep = folder_of(folder / "deep", RGB[:1])
    Image.fromarray(np.full((6, 8), 0.5, dtype=np.float32)).save(deep / "001.tiff")
    found["32 bits"] = (deep, "has mode F, whose range nobody knows")
    np.savez_compressed(folder / "damaged.npz", arr_0=RGB)
    content = bytearray((folder / "damaged.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (folder / "damaged.npz").write_bytes(content)
    found["damaged"] = (folder / "damaged.npz", "cannot be read")
    np.save(folder / "array.npy", RGB)
    (folder / "array.npy").rename(folder / "array.npz")
    found["npy called npz"] = (folder / "array.npz", "cannot be read as an array")
    np.save(folder / "short.npy", RGB)
    (folder / "short.npy").write_bytes((folder / "short.npy").read_bytes()[:-1000])
    found["cut short"] = (folder / "short.npy", "is cut short after image 3 of 11")
    return found


def test_bad_sets_are_refused_by_name(tmp_path: Path) -> None:
    for name, (path, message) in bad(tmp_path).items():
        with pytest.raises(DataError, match=message):
            everything(path)
            pytest.fail(f"{name} was taken")


def test_another_content_is_another_set(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RGB)
    np.save(tmp_path / "b.npy", RGB[::-1])
    assert open_images(tmp_path / "a.npy").fingerprint() != open_images(tmp_path / "b.npy").fingerprint()
    folder = folder_of(tmp_path / "set", RGB)
    before = open_images(folder).fingerprint()
    assert before == open_images(folder).fingerprint()
    stat = (folder / "000.png").stat()
    content = bytearray((folder / "000.png").read_bytes())
    content[-1] ^= 1
    (folder / "000.png").write_bytes(content)
    os.utime(folder / "000.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert before != open_images(folder).fingerprint(), "names, sizes and times are the same"


def test_classes_in_subfolders_are_mixed(tmp_path: Path) -> None:
    """Splits of the inception score are consecutive images; class by class they would be worth nothing."""
    for name in ("a", "b"):
        folder_of(tmp_path / name, RGB)
    images = open_images(tmp_path)
    assert images.notes == ["images of several subfolders are taken in a fixed random order"]
    first = [path.parent.name for path in images.files[:11]]  # type: ignore[attr-defined]
    assert 2 < first.count("a") < 9
    assert images.fingerprint() == open_images(tmp_path).fingerprint()


def test_a_folder_is_read_as_training_reads_it(tmp_path: Path) -> None:
    """Linked subfolders and every ending count, hidden files do not, and what is no image is named."""
    folder_of(tmp_path / "elsewhere", RGB[:2])
    folder = folder_of(tmp_path / "set", RGB[2:4])
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    Image.fromarray(RGB[4]).save(folder / "004.tiff")
    Image.fromarray(RGB[5]).save(folder / "005.PPM")
    (folder / "._004.tiff").write_bytes(b"left by a Mac")
    (folder / "notes.txt").write_text("?")
    images = open_images(folder)
    assert len(images) == 6
    assert images.notes[0] == "1 file is no image by the ending, and left aside: notes.txt"
    found = np.concatenate(list(images.batches(4)))
    assert {image.tobytes() for image in found} == {image.tobytes() for image in RGB[:6]}


def test_sixteen_bits_are_converted_as_in_training(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 48).reshape(6, 8).astype(np.uint16)
    (tmp_path / "set").mkdir()
    Image.fromarray(ramp).save(tmp_path / "set" / "000.png")
    images = open_images(tmp_path / "set")
    found = next(images.batches(1))
    assert found[0, 0, 0].tolist() == [0] * 3 and found[0, -1, -1].tolist() == [255] * 3
    assert images.notes[0] == "16-bit grey images are brought to 8 bits: 65535 becomes 255"

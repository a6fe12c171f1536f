"""Images, crops, and folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from star.data.image_folder import ImageFolder
from star.data.pixels import square
from star.data.sources import open_source
from star.data.views import CENTER, center, ordered_views, ten_crop
from star.errors import DataError
from star.pipeline.config.dataset import DataSpec


def folder_of_images(root: Path, layout: str, count: int = 30) -> DataSpec:
    """Two classes of real picture files: a bright and a dark one, of different sizes and kinds."""
    rng = np.random.default_rng(0)
    for label, level in (("bright", 200), ("dark", 40)):
        for i in range(count):
            part = {"flat": "", "split": "train/" if i % 3 else "val/"}[layout]
            path = root / part / label / f"{i}.{'png' if i % 2 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (40 + i, 50) if i % 2 else (50, 40 + i)
            pixels = rng.integers(level - 20, level + 20, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert("L" if i % 5 == 0 else "RGB").save(path)
    return DataSpec(name="image-folder", path=str(root), num_classes=2, channels=3, image_size=32)


@pytest.mark.parametrize("layout", ["flat", "split"])
@pytest.mark.parametrize("enlarge", ["resize", "pad"])
def test_a_folder_of_images(tmp_path: Path, layout: str, enlarge: str) -> None:
    spec = folder_of_images(tmp_path, layout)
    train, test = (open_source(spec, tmp_path, split) for split in ("train", "test"))  # type: ignore[arg-type]
    assert len(train.labels) + len(test.labels) == 60 and len(test.labels) == (
        20 if layout == "split" else pytest.approx(6, abs=6)
    )
    pictures = train.read(np.arange(len(train.labels)), 35, enlarge)
    assert pictures.shape == (len(train.labels), 35, 35, 3) and pictures.dtype == np.uint8
    middle = pictures[:, 10:25, 10:25].mean((1, 2, 3))
    assert ((middle > 120) == (train.labels == 0)).all()


def test_mistakes_in_a_folder(tmp_path: Path) -> None:
    spec = folder_of_images(tmp_path, "flat", count=3)
    with pytest.raises(DataError, match="num_classes: 5, but .* has 2 class folders"):
        open_source(spec.model_copy(update={"num_classes": 5}), tmp_path, "train")
    with pytest.raises(DataError, match="is no folder"):
        open_source(spec.model_copy(update={"path": str(tmp_path / "x")}), tmp_path, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        open_source(spec.model_copy(update={"path": str(tmp_path / "empty")}), tmp_path, "train")
    with pytest.raises(DataError, match="has the class folder empty without an image"):
        open_source(spec, tmp_path, "train")
    (tmp_path / "empty").rmdir()
    source = open_source(spec, tmp_path, "train")
    assert isinstance(source, ImageFolder)
    (tmp_path / source.files[0]).write_bytes(b"not a picture")
    with pytest.raises(DataError, match=f"{source.files[0]}: cannot be read as an image"):
        source.read(np.arange(len(source.labels)), 32, "resize")


def test_ten_crop_is_four_corners_the_centre_and_their_mirror_images() -> None:
    images = np.arange(36, dtype=np.uint8).reshape(1, 6, 6, 1)
    crops = ten_crop(images, 4)
    assert crops.shape == (1, 10, 4, 4, 1)
    assert [int(crop[0, 0, 0]) for crop in crops[0, :5]] == [0, 2, 12, 14, 7]
    assert [int(crop[0, 0, 0]) for crop in crops[0, 5:]] == [
        5,
        3,
        17,
        15,
        10,
    ]  # of the mirrored image, whose first row is 5 4 3 2 1 0
    for i, mirrored in enumerate((1, 0, 3, 2, 4)):
        np.testing.assert_array_equal(crops[0, i + 5], crops[0, mirrored][:, ::-1])
    np.testing.assert_array_equal(center(images, 4), crops[:, CENTER])


def test_the_tenth_crop_of_an_odd_margin_is_torchvisions() -> None:
    """281 - 256 is odd: the centre of the mirrored image is not the mirror image of the centre."""
    row = np.arange(7, dtype=np.uint8).reshape(1, 1, 7, 1).repeat(7, axis=1)
    crops = ten_crop(row, 4)[0, :, 0, :, 0]  # round(3 / 2) = 2
    assert crops[CENTER].tolist() == [2, 3, 4, 5] and crops[9].tolist() == [4, 3, 2, 1]


def test_fashion_mnist_keeps_the_order_of_its_first_runs() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)
    own = ordered_views(images, DataSpec(crop_range=1.15))
    for i in range(5):
        np.testing.assert_array_equal(own[:, i + 5], own[:, i][:, :, ::-1])
    other = DataSpec(name="image-folder", path="x", image_size=28, crop_range=1.15)
    np.testing.assert_array_equal(ordered_views(images, other), ten_crop(images, 28))


def test_centre_crop_keeps_the_middle() -> None:
    image = np.zeros((100, 300, 3), dtype=np.uint8)
    image[:, 100:200] = 250
    assert square(image, 25, "resize").shape == (25, 25, 3)
    assert square(image, 25, "resize").min() > 200


def test_fashion_mnist_is_what_it_is(images: Path) -> None:
    spec = DataSpec()
    train, test = (open_source(spec, images.parent, split) for split in ("train", "test"))  # type: ignore[arg-type]
    assert np.bincount(train.labels).tolist() == [6000] * 10 and np.bincount(test.labels).tolist() == [1000] * 10
    padded, plain = train.read(np.array([0]), 32, "pad"), train.read(np.array([0]), 28, "pad")
    np.testing.assert_array_equal(padded[:, 2:30, 2:30], plain)
    assert plain.sum() == padded.sum() == 76247

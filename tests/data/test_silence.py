"""Data that would be taken in silence for what it is not, or end in a traceback."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms

from star.data.class_folders import ClassFolders
from star.data.fetch import SHA256, fashion_mnist
from star.data.folders import Tree
from star.data.glance import glance_at_rows
from star.data.image_sets import first_images, member_shapes, open_images
from star.data.llamagen_codes import _loaded
from star.data.manifests import Manifests
from star.data.parquet import ParquetImages
from star.data.parquet_files import ParquetFiles, opened
from star.data.pixels import decoded_squares
from star.errors import DataError
from star.rundir import Home
from star.words import shown
from tests.data.test_folders import picture, spec_of, touch
from tests.data.test_imports import encoded, write_parquet


@pytest.mark.parametrize(
    "train, test",
    [
        ("training_set", "test_set"),
        ("train_images", "val_images"),
        ("seg_train", "seg_test"),
        ("Train Data", "Dev Data"),
    ],
)
def test_usual_names_with_a_word_beside_are_splits(train: str, test: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{train}/a/1.png", f"{train}/b/1.png", f"{test}/a/1.png", f"{test}/b/1.png")
    splits = ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path)).splits
    assert (splits.train, splits.test) == (train, test)


def test_classes_of_such_words_stay_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train_station/1.png", "test_tube/1.png")
    assert ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path)).classes == ["test_tube", "train_station"]


def test_a_held_out_part_whose_link_leads_nowhere_is_no_share_by_hash(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png")
    (tmp_path / "val").symlink_to(tmp_path / "not mounted")
    with pytest.raises(DataError, match="val reads as a split and is a link that leads nowhere"):
        ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path))
    assert ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path, test_split="train")).splits.train == "train"


def test_a_link_that_leads_nowhere_changes_what_is_known_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notes on a folder are kept with its state."""
    monkeypatch.setattr("star.data.manifests.SETTLED", -1.0)
    data = tmp_path / "data"
    touch(data, "a/1.png", "b/1.png")
    home = Home(tmp_path)
    before = Manifests(home).tree(Tree.of(data, states=True))
    header = next(home.manifests.glob("*.json")).read_text()
    (data / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    (data / "a" / "up").symlink_to(data)
    assert Manifests(home).tree(Tree.of(data, states=True)) == before, "no image has changed"
    assert next(home.manifests.glob("*.json")).read_text() != header


def test_an_empty_held_out_part_is_no_share_by_hash(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png")
    (tmp_path / "val" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="val reads as a split and holds no image"):
        ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path))
    assert ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path, test_split="train")).splits.train == "train"


def test_classes_on_one_side_alone_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png")
    assert "no image of the class b is held out" in ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path)).found().notes
    (tmp_path / "p").mkdir()
    write_parquet(tmp_path / "p" / "train.parquet", [encoded(1)] * 4, [0, 0, 0, 0])
    write_parquet(tmp_path / "p" / "val.parquet", [encoded(1)] * 2, [0, 1])
    spec = spec_of(tmp_path / "p", name="parquet")
    assert (
        "no row of class 1 is trained on"
        in glance_at_rows(ParquetFiles.from_tree(Tree.of(tmp_path / "p", (".parquet",)), spec), spec).notes
    )


def test_images_on_both_sides_are_known(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / "images" / "train" / "a" / f"{i}.png", 10 * i)
    shutil.copytree(tmp_path / "images" / "train", tmp_path / "images" / "val")
    picture(tmp_path / "images" / "val" / "a" / "0.png", 200)
    manifests = Manifests(Home(tmp_path / "home"))
    tree = Tree.of(tmp_path / "images", states=True)
    manifests.tree(tree)
    train, test = ([name for name, _ in tree.images(part)] for part in ("train", "val"))
    twins = manifests.twins(tree.root, "content", train, test)
    assert twins == [(f"train/a/{i}.png", f"val/a/{i}.png") for i in (1, 2, 3)]
    assert manifests.twins(tree.root, "sizes", train, test) == []


def test_a_parquet_link_that_leads_nowhere_is_no_missing_file_in_silence(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train_0.parquet", [encoded(1)] * 4, [0, 1, 0, 1])
    write_parquet(tmp_path / "val_0.parquet", [encoded(1)] * 4, [0, 1, 0, 1])
    touch(tmp_path, "train_3.parquet.incomplete")
    spec = spec_of(tmp_path, name="parquet")
    files = ParquetFiles.from_tree(Tree.of(tmp_path, (".parquet",)), spec)
    assert any("train_3.parquet.incomplete" in note for note in files.found(spec).notes)
    (tmp_path / "train_2.parquet").symlink_to("nowhere")
    with pytest.raises(
        DataError, match=r"1 link that should be a parquet file and leads nowhere, first train_2.parquet"
    ):
        ParquetFiles.from_tree(Tree.of(tmp_path, (".parquet",)), spec)


def test_parquet_columns_that_are_not_what_they_seem(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, name="parquet")
    pq.write_table(
        pa.Table.from_arrays([pa.array([b"x"]), pa.array([0]), pa.array([1])], names=["image", "label", "label"]),
        tmp_path / "two.parquet",
    )
    with pytest.raises(DataError, match="has 2 columns 'label'; keep one"):
        opened(tmp_path / "two.parquet", spec)
    (tmp_path / "two.parquet").unlink()
    table = pa.table({"image": [encoded(1)] * 12, "label": pa.array([2**63 + 5] * 12, pa.uint64())})
    pq.write_table(table, tmp_path / "large.parquet", write_statistics=False)
    with pytest.raises(DataError, match=f"label is {2**63 + 5}, and the classes are 0 to"):
        ParquetImages(ParquetFiles.from_tree(Tree.of(tmp_path, (".parquet",)), spec), "train", spec, 1)
    cells = [{"bytes": None, "path": "/x/0.png"}] * 12
    pq.write_table(pa.table({"image": cells, "label": [0, 1] * 6}), tmp_path / "large.parquet")
    images = ParquetImages(ParquetFiles.from_tree(Tree.of(tmp_path, (".parquet",)), spec), "train", spec, 1)
    with pytest.raises(DataError, match="holds only the path /x/0.png, not the image"):
        images.source(0)


def test_good_pixels_with_a_bad_exif_are_read(tmp_path: Path) -> None:
    content = encoded(100)
    rubbish = b"eXIf" + b"Exif\0\0rubbish"
    chunk = struct.pack(">I", len(rubbish) - 4) + rubbish + struct.pack(">I", zlib.crc32(rubbish))
    said: set[str] = set()
    pixels = decoded_squares(content[:33] + chunk + content[33:], 3, "x.png", [16], "resize", said.add)[0]
    assert np.array_equal(pixels, decoded_squares(content, 3, "x.png", [16], "resize", set().add)[0])
    assert said == {"EXIF that cannot be read is ignored"}
    with pytest.raises(DataError, match="cannot identify image file these bytes"):
        decoded_squares(b"<html>", 3, "row 3", [16], "resize", said.add)


def test_a_bitmap_of_16_bits_a_pixel_loses_nothing() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 16, 0, 32, 0, 0, 0, 0)
    bmp = b"BM" + struct.pack("<IHHI", 54 + 32, 0, 0, 54) + header + bytes(32)
    assert Image.open(io.BytesIO(bmp)).size == (4, 4)
    said: set[str] = set()
    decoded_squares(bmp, 3, "x.bmp", [4], "resize", said.add)
    assert not any("16 bits" in one for one in said)


def test_what_lies_beside_fetched_files_stays(images: Path, tmp_path: Path) -> None:
    for name in list(SHA256)[1:]:
        shutil.copy(images / name, tmp_path / name)
    (tmp_path / "notes.txt").write_text("mine")
    fashion_mnist(tmp_path, images)
    assert (tmp_path / "notes.txt").read_text() == "mine" and {path.name for path in tmp_path.iterdir()} == {
        *SHA256,
        "notes.txt",
    }


def test_archives_that_are_damaged_or_of_another_kind(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=np.zeros(3))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.rfind(b"PK\x01\x02")
    content[at : at + 4] = b"XXXX"
    (tmp_path / "bad.npz").write_bytes(bytes(content))
    assert member_shapes(tmp_path / "bad.npz") == {} and member_shapes(tmp_path / "a.npz") == {"mu": (3,)}
    shutil.copy(tmp_path / "a.npz", tmp_path / "0.npy")
    with pytest.raises(DataError, match="an archive of arrays"):
        _loaded(tmp_path / "0.npy")


def test_small_images_are_told_and_postscript_is_not_run(tmp_path: Path) -> None:
    for enlarge, said in (("resize", "are enlarged"), ("pad", "get a border")):
        notes: set[str] = set()
        decoded_squares(encoded(100), 3, "x.png", [64], enlarge, notes.add)
        assert notes == {f"images of fewer than 64 pixels a side {said}"}
    with pytest.raises(DataError, match="cannot be read as an image"):
        decoded_squares(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", 3, "x.png", [16], "resize"
        )


def test_folders_that_systems_leave_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png", "#recycle/1.png")
    (tmp_path / "lost+found").mkdir()
    assert ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path)).classes == ["a", "b"]


def test_a_name_stays_in_its_line() -> None:
    assert shown("a\nb\x1b[31m\x85 é") == r"a\x0ab\x1b[31m\x85 é" and shown("caf\udce9") == r"caf\xe9"


def test_a_link_to_a_folder_above_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    tree = Tree.of(tmp_path)
    assert tree.back == ["a/up"] and tree.everything() == ["a/1.png", "b/1.png"]
    assert tree.notes() == ["1 link leads back to a folder above, and left aside: a/up"]


def test_the_plan_names_classes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/1.png" for name in "abcde"))
    assert ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path, num_classes=5)).found().names == "a, b, ..., e"


def test_images_of_zeros_and_ones_are_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (80, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=pixels)
    with pytest.raises(DataError, match="first 64 images have no value above 1, and images are uint8 from 0 to 255"):
        first_images(open_images(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz", arr_0=2 * pixels)
    assert first_images(open_images(tmp_path / "a.npz")).shape == (64, 8, 8, 3)


def test_colour_profiles_are_told(tmp_path: Path) -> None:
    def said(profile: bytes) -> set[str]:
        Image.new("RGB", (16, 16)).save(tmp_path / "x.png", icc_profile=profile)
        notes: set[str] = set()
        decoded_squares(tmp_path / "x.png", 3, "x.png", [16], "resize", notes.add)
        return notes

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert said(srgb) == set()
    assert said(bytes(16) + b"GRAYXYZ ") == set()
    # a profile such as a phone's: of RGB, and described as something else
    other = srgb.replace("sRGB".encode("utf-16-be"), "Disp".encode("utf-16-be")).replace(b"sRGB", b"Disp")
    assert said(other) == {"colour profiles other than sRGB are not applied, as in torchvision"}


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())])
def test_parquet_columns_of_every_kind_of_bytes(kind: pa.DataType, tmp_path: Path) -> None:
    column = pa.array([encoded(i) for i in range(12)], pa.binary()).cast(kind)
    pq.write_table(pa.table({"image": column, "label": [0, 1] * 6}), tmp_path / "train.parquet")
    spec = spec_of(tmp_path, name="parquet")
    images = ParquetImages(ParquetFiles.from_tree(Tree.of(tmp_path, (".parquet",)), spec), "train", spec, 1)
    assert images.source(0)[0] in [encoded(i) for i in range(12)]


def test_a_split_inside_of_itself_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, *(f"seg_{part}/seg_{part}/{name}/1.png" for part in ("train", "test") for name in "ab"))
    with pytest.raises(
        DataError, match="seg_train holds one folder, seg_train, which reads as a split and not as a class"
    ):
        ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path))

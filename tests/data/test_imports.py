"""Images from parquet, codes from LlamaGen's folders, and what happens to what is wrong in either."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from star.data.codes import LEFT_OUT, CodeStore
from star.data.llamagen_codes import LlamaGenCodes
from star.data.parquet_files import ParquetFiles
from star.data.places import codes_absent as absent
from star.data.sources import open_source
from star.errors import DataError
from star.pipeline.config import RunSpec
from star.pipeline.config.dataset import DataSpec
from tests.data.test_sources import folder_of_images
from tests.helpers import context, tiny
from tests.stage_code import CODE


def encoded(level: int, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 50, 3), level, dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(path: Path, cells: list[Any], labels: list[Any], column: str = "image") -> None:
    """As Hugging Face's `datasets` writes images: a struct of bytes and path, small row groups."""
    table = pa.table({column: pa.array(cells), "label": pa.array(labels)})
    pq.write_table(table, path, row_group_size=3)


def parquet_folder(root: Path, count: int = 8) -> DataSpec:
    for split, first in (("train", 0), ("validation", 100)):
        for part in range(2):
            rows = [{"bytes": encoded(first + 10 * part + i, "png"), "path": f"{i}.png"} for i in range(count)]
            write_parquet(root / f"{split}-0000{part}-of-00002.parquet", rows, [i % 2 for i in range(count)])
    return DataSpec(name="parquet", path=str(root), num_classes=2, channels=3, image_size=32)


def test_parquet_with_two_splits(tmp_path: Path) -> None:
    spec = parquet_folder(tmp_path)
    train, test = (open_source(spec, tmp_path, split, threads=2) for split in ("train", "test"))  # type: ignore[arg-type]
    assert train.labels.tolist() == [0, 1] * 8 and len(test.labels) == 16
    assert train.read(np.array([1, 15]), 32, "resize")[:, 0, 0, 0].tolist() == [1, 17]
    assert test.read(np.array([0]), 32, "resize")[0, 0, 0].tolist() == [100] * 3
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [{"bytes": encoded(9), "path": ""}], [-1])
    again = [open_source(spec, tmp_path, split).labels.tolist() for split in ("train", "test")]  # type: ignore[arg-type]
    assert again == [train.labels.tolist(), test.labels.tolist()], "unlabelled test files beside validation files"
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="lacks 1 of the 2 files of train, first train-00001-of-00002.parquet"):
        open_source(spec, tmp_path, "train")


def test_parquet_without_splits_holds_some_rows_out(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data.parquet", [encoded(i) for i in range(60)], [i % 2 for i in range(60)], "picture")
    spec = DataSpec(
        name="parquet", path=str(tmp_path), image_column="picture", num_classes=2, channels=3, test_fraction=0.3
    )
    train, test = (open_source(spec, tmp_path, split) for split in ("train", "test"))  # type: ignore[arg-type]
    levels = [source.read(np.arange(len(source.labels)), 32, "resize")[:, 0, 0, 0].tolist() for source in (train, test)]
    assert sorted(levels[0] + levels[1]) == list(range(60)) and 8 < len(levels[1]) < 30


def test_mistakes_in_parquet(tmp_path: Path) -> None:
    spec = parquet_folder(tmp_path)
    with pytest.raises(DataError, match=r"data.label_column: .* has no column 'class'; it has image, label"):
        open_source(spec.model_copy(update={"label_column": "class"}), tmp_path, "train")
    with pytest.raises(
        DataError,
        match=r"row 1: label is 1, and the classes are 0 to data.num_classes - 1 = 0 \(8 of 16 rows are like it\)",
    ):
        open_source(spec.model_copy(update={"num_classes": 1}), tmp_path, "train")
    damaged = tmp_path / "train-00000-of-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as parquet"):
        open_source(spec, tmp_path, "train")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"holds no \*.parquet"):
        open_source(spec.model_copy(update={"path": str(tmp_path / "none")}), tmp_path, "train")


@pytest.mark.parametrize(
    "names, changes, expected",
    [
        (["Training-0", "testing-0"], {}, ("Training-0", "testing-0")),
        (["train-0", "valid-0", "test-0"], {}, ("train-0", "valid-0")),
        (["train-0", "valid-0", "test-0"], {"test_split": "test"}, ("train-0", "test-0")),
        (
            ["train-0", "val-0", "validation-0"],
            {},
            "data.test_split: .* has val and validation, and either could be meant",
        ),
        (["train-0", "more-0"], {}, "data.train_split: .* has train, which reads as a split, beside more"),
        (["more-0", "test-0"], {"train_split": "more"}, ("more-0", "test-0")),
        (["more-0", "test-0"], {}, "data.train_split: .* has test to hold out but no part called train"),
        (
            ["train-00000-of-00003", "train-00002-of-00003"],
            {},
            "lacks 1 of the 3 files of train, first train-00001-of-00003",
        ),
        (["train-00000-of-00001", "train-00000-of-00002"], {}, "were cut in different ways"),
        (["train-00000-of-00001-1a2b", "train-00000-of-00001-3c4d"], {}, "file 0 of 1 of train twice"),
        (["train-00000-of-00001", "train-00000-of-00001-3c4d"], {}, "file 0 of 1 of train twice"),
        (["train-00000-of-00001-1a2b", "train-00000-of-00002-3c4d"], {}, "were cut in different ways"),
        (["train-00000-of-00002-1a2b3c"], {}, "lacks 1 of the 2 files of train, first train-00001-of-00002"),
        (
            ["train-00001-of-00003", "train-00003-of-00003"],
            {},
            "lacks 1 of the 3 files of train, first train-00002-of-00003",
        ),
        (
            ["data/train-0", "old/train-0"],
            {},
            "data.train_split: .* data/train and old/train, and either could be meant",
        ),
        (["train_10k", "train_full", "val"], {"train_split": "train_full"}, ("train_full", "val")),
        (["en/rows", "fr/rows"], {}, "has files of en/rows, fr/rows, and nothing says which"),
    ],
)
def test_which_files_are_which_split(tmp_path: Path, names: list[str], changes: dict[str, Any], expected: Any) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_parquet(tmp_path / f"{name}.parquet", [encoded(1)] * 2, [0, 1])
    spec = DataSpec(name="parquet", path=str(tmp_path), num_classes=2, channels=3, **changes)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            ParquetFiles.of(tmp_path, spec)
        return
    found = ParquetFiles.of(tmp_path, spec)
    assert tuple(found.of_split(split)[0][0].stem for split in ("train", "test")) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "labels, message",
    [
        (["cat", "dog"], "label holds string, and a class is a whole number"),
        ([0.0, 1.0], "label holds double, and a class is a whole number"),
        ([0, None], "row 1: label is null"),
        ([0, 2021], "row 1: label is 2021, and the classes are 0 to data.num_classes - 1 = 1"),
    ],
)
def test_labels_that_are_no_classes(tmp_path: Path, labels: list[Any], message: str) -> None:
    write_parquet(tmp_path / "train.parquet", [encoded(1)] * 2, labels)
    write_parquet(tmp_path / "test.parquet", [encoded(1)] * 2, [0, 1])
    spec = DataSpec(name="parquet", path=str(tmp_path), num_classes=2, channels=3)
    with pytest.raises(DataError, match=message):
        open_source(spec, tmp_path, "train")


def test_a_column_of_no_images_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["http://example.org/1.png"] * 2, [0, 1])
    with pytest.raises(DataError, match="image holds string, and an image is encoded bytes"):
        open_source(DataSpec(name="parquet", path=str(tmp_path), num_classes=2, channels=3), tmp_path, "train")


def test_a_null_image_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [encoded(1), None], [0, 1])
    write_parquet(tmp_path / "test.parquet", [encoded(1)] * 2, [0, 1])
    source = open_source(DataSpec(name="parquet", path=str(tmp_path), num_classes=2, channels=3), tmp_path, "train")
    assert [bool(problem) for problem in source.problems(np.arange(2))] == [False, True]
    with pytest.raises(DataError, match="train.parquet, row group 0, row 1: image is null"):
        source.read(np.arange(2), 32, "resize")


def test_bad_images_stop_the_run_or_are_left_out_and_counted(tmp_path: Path) -> None:
    """The same folder under both rules: an empty file, a JPEG cut in its middle, a file that is no picture."""
    data = folder_of_images(tmp_path / "images", "flat")
    bad = [tmp_path / "images" / name for name in ("dark/4.jpg", "bright/8.jpg", "dark/7.png")]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:-400])
    bad[2].write_bytes(b"no picture")
    counts = {split: len(open_source(data, tmp_path, split).labels) for split in ("train", "test")}  # type: ignore[arg-type]
    sized = data.model_copy(update={"train_images": counts["train"], "test_images": counts["test"]})
    values = tiny().model_dump() | {"data": sized.model_dump(), "score": {"num_reference": 16, "is_split_size": 8}}
    skipping = RunSpec.model_validate(values | {"data": values["data"] | {"bad_images": "skip"}})
    ctx = context(skipping, "dataset", tmp_path / "skip")
    assert CODE["dataset"](ctx) == {"skipped": 3}
    left = sum(len(np.load(ctx.out / f"{split}.npz")["labels"]) for split in counts)
    assert left == 60 - 3
    source = open_source(sized, tmp_path, "train")
    with pytest.raises(DataError, match="cannot be read as an image"):
        source.read(np.arange(counts["train"]), 32, "resize")


def codes_folder(root: Path, count: int = 6) -> tuple[Path, np.ndarray]:
    """As LlamaGen's extraction script writes them, for two crop ranges."""
    codes = np.random.default_rng(0).integers(0, 32, (count, 20, 49))
    for name, views in (("ten_crop", slice(0, 10)), ("ten_crop_105", slice(10, 20))):
        for part in ("codes", "labels"):
            (root / name / f"imagenet256_{part}").mkdir(parents=True)
        for i in range(count):
            np.save(root / name / "imagenet256_codes" / f"{i}.npy", codes[i : i + 1, views])
            np.save(root / name / "imagenet256_labels" / f"{i}.npy", np.array([i % 3]))
    return root / "ten_crop", codes


def test_llamagens_codes_are_imported(tmp_path: Path) -> None:
    folder, codes = codes_folder(tmp_path)
    for ranges in (1, 2):
        found, labels = LlamaGenCodes(folder, ranges, 49, 32, skip=False).read(np.array([1, 4]), np.array([1, 1]))
        np.testing.assert_array_equal(found, codes[[1, 4], : 10 * ranges])
        assert found.dtype == np.uint16 and labels.tolist() == [1, 1]
    assert absent(folder) is None and "has 0 folders called *_codes" in str(absent(tmp_path))
    LlamaGenCodes(folder, 2, 49, 32, skip=False).check_count(6)


def test_codes_of_more_or_fewer_images_are_refused(tmp_path: Path) -> None:
    """Every number behind the first difference would be another image's."""
    folder, _ = codes_folder(tmp_path)
    given = LlamaGenCodes(folder, 1, 49, 32, skip=False)
    for images in (5, 7):
        with pytest.raises(DataError, match=f"numbers 6 images and the images' folder has {images}"):
            given.check_count(images)
    for part in ("codes", "labels"):  # what four ranks add to six images: the first two again
        for number in (6, 7):
            source = folder / f"imagenet256_{part}" / f"{number - 6}.npy"
            (folder / f"imagenet256_{part}" / f"{number}.npy").write_bytes(source.read_bytes())
    given.check_count(6)
    np.save(folder.with_name("ten_crop_105") / "imagenet256_labels" / "2.npy", np.array([0]))
    twice = LlamaGenCodes(folder, 2, 49, 32, skip=False)
    with pytest.raises(
        DataError, match=r"ten_crop_105/imagenet256_labels/2.npy: says class \[0\], the images' folder 2"
    ):
        twice.read(np.array([2]), np.array([2]))
    (folder.with_name("ten_crop_105") / "imagenet256_codes" / "5.npy").unlink()
    with pytest.raises(DataError, match="ten_crop_105/imagenet256_codes numbers 5 images and the images' folder has 6"):
        twice.check_count(6)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "cannot be read as codes"),
        (np.zeros((1, 10, 48), dtype=int), r"has shape \(1, 10, 48\); wanted is \(1, 10, 49\)"),
        (np.full((1, 10, 49), 32), "holds more than codes 0 to 31"),
        (np.zeros((1, 10, 49)), "holds more than codes 0 to 31"),
    ],
)
def test_codes_that_are_wrong(tmp_path: Path, content: Any, message: str) -> None:
    folder, codes = codes_folder(tmp_path)
    path = folder / "imagenet256_codes" / "2.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    images, labels = np.array([1, 2, 4]), np.array([1, 2, 1])
    with pytest.raises(DataError, match=message):
        LlamaGenCodes(folder, 1, 49, 32, skip=False).read(images, labels)
    found, kept = LlamaGenCodes(folder, 1, 49, 32, skip=True).read(images, labels)
    assert kept.tolist() == [1, LEFT_OUT, 1]
    np.testing.assert_array_equal(found[[0, 2]], codes[[1, 4], :10])


def test_labels_that_are_not_these_images(tmp_path: Path) -> None:
    folder, _ = codes_folder(tmp_path)
    with pytest.raises(
        DataError, match=r"4.npy: says class \[1\], the images' folder 0; are the codes of these images"
    ):
        LlamaGenCodes(folder, 1, 49, 32, skip=False).read(np.array([4]), np.array([0]))


def test_a_run_on_imported_codes_is_a_run_on_encoded_ones(images: Path, tmp_path: Path) -> None:
    """Encode real images, write the codes as LlamaGen would, import them: the same store. A damaged file is left out."""
    spec = tiny(data__train_images=40, data__test_images=20, score__num_reference=20)
    inputs = {}
    for stage, needs in (("dataset", ()), ("tokenizer", ("dataset",)), ("encode", ("dataset", "tokenizer"))):
        ctx = context(spec, stage, tmp_path, **{name: inputs[name] for name in needs})
        CODE[stage](ctx)
        inputs[stage] = ctx.out
    chosen = np.load(inputs["dataset"] / "train.npz")
    codes = np.load(inputs["encode"] / "train" / "codes.npy").astype(np.int64)
    folder = tmp_path / "llamagen"
    for part in ("codes", "labels"):
        (folder / f"fashion_{part}").mkdir(parents=True)
    for row, (index, label) in enumerate(zip(chosen["indices"], chosen["labels"], strict=True)):
        np.save(folder / "fashion_codes" / f"{index}.npy", codes[row : row + 1])
        np.save(folder / "fashion_labels" / f"{index}.npy", np.array([label]))

    importing = tiny(
        data__train_images=40,
        data__test_images=20,
        score__num_reference=20,
        data__codes=str(folder),
        data__bad_images="skip",
    )
    needs = {name: inputs[name] for name in ("dataset", "tokenizer")}
    whole = context(importing, "encode", tmp_path / "whole", **needs)
    assert CODE["encode"](whole) == {"skipped": 0}
    for name in ("train/codes.npy", "train/labels.npy", "test/codes.npy"):
        assert (whole.out / name).read_bytes() == (inputs["encode"] / name).read_bytes()
    (folder / "fashion_codes" / f"{chosen['indices'][5]}.npy").write_bytes(b"")
    broken = context(importing, "encode", tmp_path / "broken", **needs)
    assert CODE["encode"](broken) == {"skipped": 1}
    store = CodeStore(broken.out / "train")
    assert len(store) == 39
    np.testing.assert_array_equal(store.center(5, 6)[0], codes[6, 4])


def test_two_crop_ranges_make_twenty_views(images: Path, tmp_path: Path) -> None:
    spec = tiny(data__train_images=20, data__test_images=20, score__num_reference=20, data__extra_crop_range=1.3)
    inputs = {}
    for stage, needs in (("dataset", ()), ("tokenizer", ("dataset",)), ("encode", ("dataset", "tokenizer"))):
        ctx = context(spec, stage, tmp_path, **{name: inputs[name] for name in needs})
        CODE[stage](ctx)
        inputs[stage] = ctx.out
    store = CodeStore(inputs["encode"] / "train")
    assert (store.num_views, store.length) == (20, 49)
    centre, wider = (store.gather(np.arange(20), np.full((20, 1), view)) for view in (4, 14))
    np.testing.assert_array_equal(centre, wider)  # padded images: the centre is the image itself, at any range
    corner, further = (store.gather(np.arange(20), np.full((20, 1), view)) for view in (0, 10))
    assert not np.array_equal(corner, further)

"""What counts in a folder of images: torchvision's ImageFolder decides, and what it would train on unseen is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from star.data.class_folders import ClassFolders
from star.data.folders import EXTENSIONS, Tree
from star.data.image_sets import open_images
from star.data.sources import open_source
from star.errors import DataError
from star.pipeline.config.dataset import DataSpec


def torchvision_order(root: Path) -> list[tuple[str, str]]:
    """Of ImageFolder.make_dataset: classes by name, in each the walk sorted by path, in each folder the names sorted."""
    found = []
    for name in sorted(entry.name for entry in os.scandir(root) if entry.is_dir()):
        for folder, _, files in sorted(os.walk(root / name, followlinks=True)):
            found += [
                (os.path.relpath(os.path.join(folder, file), root), name)
                for file in sorted(files)
                if file.lower().endswith(EXTENSIONS)
            ]
    return found


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def picture(path: Path, level: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 20, 3), level, dtype=np.uint8)).save(path)


def spec_of(root: Path, **changes: Any) -> DataSpec:
    return DataSpec(
        **{"name": "image-folder", "path": str(root), "num_classes": 2, "channels": 3, "image_size": 16} | changes
    )


NAME = st.text(st.sampled_from("ab-_.A1 é~"), min_size=1, max_size=3).filter(
    lambda name: name[0] not in "." and name.strip(". ")
)


@given(
    st.lists(
        st.tuples(st.lists(NAME, min_size=1, max_size=3), NAME, st.sampled_from([".png", ".JPEG", ".tiff", ".txt"])),
        max_size=8,
    )
)
def test_the_order_is_torchvisions(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[list[str], str, str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for folders, name, ending in files:
        target = root.joinpath(*(f"{folder}d" for folder in folders))
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{name}{ending}").touch()
    assert Tree.of(root).images() == torchvision_order(root)


def test_one_name_may_begin_another(tmp_path: Path) -> None:
    """`cat-big/x` sorts before `cat/x` as a path; as a class it does not."""
    touch(tmp_path, "cat/1.png", "cat-big/1.png", "cat/deep/1.png", "cat/deep-er/1.png")
    names = [name for name, _ in Tree.of(tmp_path).images()]
    assert names == ["cat/1.png", "cat/deep/1.png", "cat/deep-er/1.png", "cat-big/1.png"]
    assert Tree.of(tmp_path).images() == torchvision_order(tmp_path)


def test_hidden_things_never_count_and_strays_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.TIF", "a/2.gif", "b/notes.txt", "1.png")
    touch(
        tmp_path,
        ".ipynb_checkpoints/1.png",
        "a/.ipynb_checkpoints/1.png",
        "a/._1.png",
        "__MACOSX/a/1.png",
        "a/Thumbs.db",
    )
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    tree = Tree.of(tmp_path)
    assert [name for name, _ in tree.images()] == ["a/1.png", "b/1.TIF"]
    assert tree.strays == ["a/2.gif", "b/notes.txt"] and tree.lost == ["a/gone.png"]
    found = ClassFolders.of(tree, spec_of(tmp_path)).found()
    assert found.notes == [
        "2 files are no image by the ending, and left aside: a/2.gif, b/notes.txt",
        "1 link leads nowhere, and left aside: a/gone.png",
        "1 image lies in the folder itself, in no class folder, and left aside",
    ]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "1.png")
    root = touch(tmp_path / "set", "b/1.png")
    (root / "a").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "again").symlink_to(root)
    (root / "b" / "itself").symlink_to(root / "b" / "itself")
    assert [name for name, _ in Tree.of(root).images()] == ["a/1.png", "b/1.png"]


@pytest.mark.parametrize(
    "files, changes, expected",
    [
        (["a/1.png", "b/1.png"], {}, (None, None)),
        (["a/2020/1.png", "b/2021/1.png"], {}, (None, None)),
        (["Train/a/1.png", "Train/b/1.png", "VAL/a/1.png"], {}, ("Train", "VAL")),
        (["training/a/1.png", "training/b/1.png", "eval/a/1.png"], {}, ("training", "eval")),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png", "test/a/1.png"], {}, ("train", "val")),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png", "test/a/1.png"], {"test_split": "test"}, ("train", "test")),
        (["train/a/1.png", "train/b/1.png", "val/1.png"], {"test_split": "train"}, ("train", None)),
        (["train2017/a/1.png", "train2017/b/1.png", "val_2017/a/1.png"], {}, ("train2017", "val_2017")),
        (["train_station/1.png", "test_tube/1.png"], {}, (None, None)),
        (
            ["train2017/1.png", "val2017/1.png"],
            {},
            "train2017 and val2017, which read as splits but hold images and no class",
        ),
        (["fit/a/1.png", "fit/b/1.png", "dev/a/1.png"], {"train_split": "fit"}, ("fit", "dev")),
        (["train/1.png", "test/1.png"], {"train_split": "."}, (None, None)),
        (["train/1.png", "bus/1.png"], {}, (None, None)),
        (["train/a/1.png", "train/b/1.png"], {}, ("train", None)),
        (
            ["train/a/1.png", "training/b/1.png"],
            {},
            "data.train_split: .* train and training, and either could be meant",
        ),
        (
            ["train/a/1.png", "valid/a/1.png", "val/a/1.png"],
            {},
            "data.test_split: .* val and valid, and either could be meant",
        ),
        (
            ["train/a/1.png", "val/a/1.png", "bus/1.png"],
            {},
            "data.train_split: .* has train, which reads as a split, beside bus",
        ),
        (["val/a/1.png", "val/b/1.png"], {}, "has val to hold out but no part called train"),
        (["train/1.png", "val/1.png"], {}, "train and val, which read as splits but hold images and no class folders"),
        (["a/1.png", "b/1.png", "test/1.png"], {}, "test, which read as splits but hold images and no class folders"),
        (["1.png", "2.png"], {}, "has images but no subfolder for each class"),
        (
            ["train/a/1.png", "train/b/1.png", "val/1.png"],
            {},
            "val has 1 images but no class folders.*num_classes.*data.test_split: train",
        ),
        (["train/a/1.png", "train/b/1.png", "val/c/1.png"], {}, "val has the class c, which train/ has not"),
        (
            ["train/a/1.png", "train/b/1.png"],
            {"train_split": "fit"},
            "data.train_split: .* has no part 'fit'; it has: train",
        ),
        (["a/1.png"], {}, "num_classes: 2, but .* has 1 class folder: a. If these are the classes"),
    ],
)
def test_which_folders_are_which_split(
    tmp_path: Path, files: list[str], changes: dict[str, Any], expected: Any
) -> None:
    tree = Tree.of(touch(tmp_path, *files))
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            ClassFolders.of(tree, spec_of(tmp_path, **changes))
    else:
        splits = ClassFolders.of(tree, spec_of(tmp_path, **changes)).splits
        assert (splits.train, splits.test) == expected


def test_a_class_is_the_first_level(tmp_path: Path) -> None:
    for name, level in (("cat", 0), ("dog", 255)):
        for year in ("2020", "2021"):
            for i in range(10):
                picture(tmp_path / name / year / f"{i}.png", level)
    for split in ("train", "test"):
        source = open_source(spec_of(tmp_path, test_fraction=0.4), tmp_path, split)  # type: ignore[arg-type]
        levels = source.read(np.arange(len(source.labels)), 16, "resize")[:, 0, 0, 0]
        assert len(levels) > 4 and ((levels > 100) == (source.labels == 1)).all()


@pytest.mark.parametrize("layout", ["", "train/"])
def test_images_are_numbered_as_the_whole_folder_was_extracted(tmp_path: Path, layout: str) -> None:
    """LlamaGen's codes count all images of the folder; a share that is held out leaves gaps."""
    for name in ("cat", "cat-big"):
        for i in range(20):
            picture(tmp_path / layout / name / f"{i:02d}.png")
    if layout:
        picture(tmp_path / "val/cat/1.png")
    source: Any = open_source(spec_of(tmp_path), tmp_path, "train")
    order = [f"{layout}{name}" for name, _ in torchvision_order(tmp_path / layout)]
    assert [order[number] for number in source.numbers] == source.files
    assert source.total == 40 and len(source.files) == (40 if layout else len(source.numbers))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "1.png")
    os.rename(tmp_path / "a" / "1.png", os.fsencode(tmp_path / "a") + b"/caf\xe9.png")
    (tmp_path / "b" / "1.png").write_bytes(b"none")
    found = [open_source(spec_of(tmp_path, test_fraction=share), tmp_path, "train") for share in (1e-6, 1 - 1e-6)]
    source = next(one for one in found if len(one.labels) == 2)
    assert source.read(np.array([0]), 16, "resize").mean() == 100 and len(source.listing()) == 16
    problems = list(source.problems(np.arange(2)))
    assert problems[0] is None and "b/1.png: cannot be read as an image" in str(problems[1])
    os.rename(tmp_path / "b" / "1.png", os.fsencode(tmp_path / "b") + b"/caf\xe9.png")
    with pytest.raises(DataError, match=r"caf\\xe9.png: cannot be read as an image"):
        list(open_images(tmp_path).batches(2))


def test_splits_below_a_set_are_said(tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / part / "a" / "1.png")
    assert "images of train, val are taken together; give one of them to choose" in open_images(tmp_path).notes


def test_what_a_choice_leaves_aside_is_said(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "train/a/1.png",
        "train/b/1.png",
        "val/a/1.png",
        "test/a/1.png",
        "dev/a/1.png",
        "val/loose.png",
        "1.png",
    )
    found = ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path, test_split="test")).found()
    assert found.notes[0] == "left aside: dev, val (data.train_split and data.test_split choose)"
    found = ClassFolders.of(Tree.of(tmp_path), spec_of(tmp_path, test_split="val")).found()
    beside = [
        f"1 image lies in {where}, in no class folder, and left aside" for where in ("the folder itself", "val/ itself")
    ]
    assert found.notes[1:] == [*beside, "no image of the class b is held out"]

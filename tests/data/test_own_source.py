"""A data set of a plugin: the page's example on real images, and what is said of one that is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from star.data.sources import FashionMNIST
from tests.helpers import DATA, ROOT, page_of_docs, star_exp

PAGE = (ROOT / "docs" / "data.md").read_text().partition("## Your format")[2]
RUN = ("study/arrays.yaml", "--profile", "tiny", "--plain")


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, and as its arrays the bags, shirts and boots of Fashion-MNIST, in three equal channels."""
    path = tmp_path_factory.mktemp("page")
    page_of_docs(PAGE.replace("/my/arrays", str(path / "arrays")), path)
    (path / "arrays").mkdir()
    for split, count in (("train", 600), ("test", 120)):
        theirs = FashionMNIST(DATA, split)  # type: ignore[arg-type]
        rows = np.concatenate([np.flatnonzero(theirs.labels == one)[: count // 3] for one in (6, 8, 9)])
        labels = np.searchsorted([6, 8, 9], theirs.labels[rows])
        np.savez(path / "arrays" / f"{split}.npz", x=theirs.images[rows].repeat(3, axis=-1), y=labels)
    return path


def test_it_is_trained_on_like_any_other(folder: Path) -> None:
    done = star_exp("run", *RUN, home=folder / "home", cwd=folder)
    assert done.returncode == 0 and "all done: 7 jobs computed" in done.stdout, done.stdout + done.stderr
    assert "3 classes; 600 images to train on (arrays), 120 held out (arrays)" in done.stdout
    (job,) = (folder / "home" / "jobs").glob("dataset-*")
    chosen = np.load(job / "out" / "test.npz")
    with np.load(folder / "arrays" / "test.npz") as file:
        assert (chosen["labels"] == file["y"][chosen["indices"]]).all() and len(set(chosen["labels"].tolist())) == 3
    (encode,) = (folder / "home" / "jobs").glob("encode-*")
    codes, labels = np.load(encode / "out" / "train" / "codes.npy"), np.load(encode / "out" / "train" / "labels.npy")
    with np.load(folder / "arrays" / "train.npz") as file:
        assert (
            codes.shape == (400, 10, 49) and (labels == file["y"][np.load(job / "out" / "train.npz")["indices"]]).all()
        )
    assert len(list((folder / "home" / "jobs").glob("probe-*/result.json"))) == 2


def planned(folder: Path, *options: str) -> set[str]:
    done = star_exp("plan", *RUN[:3], *options, "--json", home=folder / "home", cwd=folder)
    assert done.returncode == 0, done.stderr
    return {job["key"] for job in json.loads(done.stdout)["jobs"] if job["stage"] == "dataset"}


def test_its_key_is_content_fields_and_code(folder: Path, tmp_path: Path) -> None:
    before = planned(folder)
    moved = shutil.copytree(folder / "arrays", tmp_path / "elsewhere")
    assert planned(folder, "--set", f"data.path={moved}") == before, "where it lies is no part of it"
    for split in ("train", "test"):
        with np.load(moved / f"{split}.npz") as file:
            changed = {"x": file["x"], "y": file["y"], "z": file["y"]}
        changed["x"][0, 0, 0] ^= 1
        np.savez(moved / f"{split}.npz", **changed)
    other = planned(folder, "--set", f"data.path={moved}")
    assert other != before
    assert planned(folder, "--set", f"data.path={moved}", "--set", "data.arrays.labels=z") not in (before, other)
    file = folder / "study" / "my_data.py"
    text = file.read_text()
    file.write_text(text + "\n# more\n")
    assert planned(folder) != before
    file.write_text(text)
    assert planned(folder) == before


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("file[config.labels]", 'file["w"]', ["data.name: arrays cannot read", "KeyError", "w"]),
        ("return self.arrays[split][1]", "return self.arrays[split][1] + 1", ["data.num_classes: 3", "of class 3 in train"]),
        ("return self.arrays[split][1]", "return self.arrays[split][1] / 1", ["type float64; give (N,) whole numbers"]),
        ("[0][index]", "[0][index, ..., 0]", ["image 0 of train has shape (28, 28)", "(H, W, 3) bytes, as data.channels"]),
        ("[0][index]", "[0][index] / 255", ["type float64"]),
        ("return self.arrays[split][1]", "return self.arrays[split][1][:10]", ["has 10 images to train on"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_said_by_the_plan(
    folder: Path, tmp_path: Path, old: str, new: str, expected: list[str]
) -> None:
    study = shutil.copytree(folder / "study", tmp_path / "study", symlinks=True)
    text = (study / "my_data.py").read_text()
    assert old in text
    (study / "my_data.py").write_text(text.replace(old, new))
    done = star_exp("plan", *RUN[:3], home=tmp_path / "home", cwd=tmp_path)
    told = done.stdout + done.stderr
    assert all(part in told for part in expected) and "Traceback" not in told, told
    assert done.returncode == 2 or "missing: " in told
    missing = star_exp("plan", *RUN[:3], "--set", "data.path=/nowhere/at/all", home=tmp_path / "home", cwd=tmp_path)
    assert "/nowhere/at/all is not there; give what arrays reads" in missing.stdout + missing.stderr


def test_bad_images_are_left_out_where_the_spec_says_so(folder: Path, tmp_path: Path) -> None:
    study = shutil.copytree(folder / "study", tmp_path / "study", symlinks=True)
    file = study / "my_data.py"
    good = "        return self.arrays[split][0]"
    bad = '        if split == "train" and index % 50 == 7:\n            raise DataError(f"{index}: is grey")\n'
    file.write_text("from star.errors import DataError\n" + file.read_text().replace(good, bad + good))
    sets = ("--set", "data.bad_images=skip", "--set", "data.train_images=600")
    done = star_exp("run", *RUN, *sets, home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 0 and "skipped 12" in done.stdout, done.stdout + done.stderr

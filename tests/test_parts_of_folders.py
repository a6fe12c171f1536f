"""Folders lie class by class: whatever measures a part of their images measures all classes. Fashion-MNIST's first images do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from star.data.sources import open_source
from star.pipeline.config import RunSpec
from star.spec.builtin import builtin_stages
from star.spec.load import load
from star.stages.context import Pixels
from star.train.trainer import build_model
from star.weights import save_weights
from tests.helpers import DATA, ROOT, TINY, context, tiny
from tests.stage_code import CODE

PER_CLASS = {"train": 16, "test": 12}
PART = 40
"""Of 160 and 120 images: the first ones are of four classes or fewer."""


@pytest.fixture(scope="module")
def spec(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    """Fashion-MNIST's images, a few of each class, in a folder for each class."""
    folder = tmp_path_factory.mktemp("folders")
    for split, count in PER_CLASS.items():
        source = open_source(tiny().data, DATA.parent, split, 1)  # type: ignore[arg-type]
        for label in range(10):
            (folder / split / f"class{label}").mkdir(parents=True)
            rows = np.flatnonzero(source.labels == label)[:count]
            for row, image in zip(rows, source.read(rows, 28, "pad"), strict=True):
                Image.fromarray(image[..., 0]).save(folder / split / f"class{label}" / f"{row:05d}.png")
    return tiny(
        data__name="image-folder",
        data__path=str(folder),
        data__train_images=160,
        data__test_images=120,
        score__num_reference=PART,
        floor__num_images=PART,
        attention__images=PART,
        invariance__images=PART,
        invariance__shifts=[1],
    )


def test_every_part_is_of_all_classes(spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("star.stages.tokenizer.REPORTED", PART)
    seen: list[np.ndarray] = []
    read = Pixels._at_sides

    def recorded(self: Pixels, rows: np.ndarray | slice, sides: list[int]) -> list[np.ndarray]:
        seen.append(self.labels[rows])
        return read(self, rows, sides)

    monkeypatch.setattr(Pixels, "_at_sides", recorded)
    found: dict[str, np.ndarray] = {}
    ready: dict[str, Path] = {}
    torch.manual_seed(0)
    (tmp_path / "train" / "out").mkdir(parents=True)
    save_weights(tmp_path / "train" / "out" / "student.pt", build_model(spec).state_dict())
    for stage in ("dataset", "tokenizer", "encode", "reference", "floor", "invariance", "attention"):
        seen.clear()
        made = context(spec, stage, tmp_path, train=tmp_path / "train" / "out", **ready)
        CODE[stage](made)
        ready[stage] = made.out
        found[stage] = np.concatenate(seen) if seen else np.empty(0)
    reported = found["tokenizer"][-PART:]  # after the batches that train
    rebuilt = found["floor"][:PART]
    moments, shown = np.split(found["reference"], [PART])
    for labels in (reported, rebuilt, moments, shown, found["invariance"]):
        assert len(labels) == PART and len(set(labels)) >= 9, labels
    assert all(np.all(np.diff(labels) >= 0) for labels in (reported, rebuilt, moments)), "read in the files' order"
    assert len(set(found["invariance"][:4])) > 1
    with np.load(ready["attention"] / "attention.npz") as file:
        assert len(set(file["labels"])) > 1, "the maps that are shown"


def test_only_where_a_part_is_taken_the_key_is_another(spec: RunSpec) -> None:
    """Fashion-MNIST comes in random order, and its keys stay, but where not all of the reference serves precision; so do those of
    whole sets."""
    whole = {"score": {"num_reference": 160, "manifold_images": 160}, "floor": {"num_images": 120}}
    every = spec.model_copy(
        update={name: getattr(spec, name).model_copy(update=values) for name, values in whole.items()}
    )
    stages = builtin_stages()
    versions = [
        {name: stages[name].version_of(run) for name in ("reference", "floor", "attention", "score")}
        for run in (tiny(), spec, every)
    ]
    assert versions[0] == {"reference": 2, "floor": 2, "attention": 1, "score": 2}
    assert versions[1] == {"reference": 3, "floor": 3, "attention": 2, "score": 2}
    assert versions[2] == {"reference": 2, "floor": 2, "attention": 2, "score": 2}
    folder = ["data.name=image-folder", f"data.path={ROOT}"]
    for sets, same in (([], True), (folder, True), ([*folder, "data.test_images=2001"], False)):
        run = load(TINY, sets=sets).variants[0].runs[0]
        assert (stages["tokenizer"].version_of(run) < 3) == same, sets

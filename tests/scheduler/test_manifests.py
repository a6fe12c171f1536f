"""Manifests: contents are read once, and again after any change; without the data its experiment is planned as it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from star.cli.home import export_bundle, import_bundle
from star.data import manifests
from star.data.folders import Tree
from star.data.manifests import Manifests
from star.errors import DataError, SpecError
from star.ledger.store import open_ledger
from star.rundir import Home
from star.scheduler.plan import Plan, make_plan
from star.scheduler.registration import register
from star.spec.load import load
from tests.data.test_imports import codes_folder, encoded, write_parquet
from tests.helpers import ROOT


@pytest.fixture
def given(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    for name in ("a", "b"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for i in range(15):
            (folder / f"{i}.png").write_bytes(encoded(i))
    return tmp_path / "images"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were just written have stood for a while."""
    now = manifests.time.time
    monkeypatch.setattr(manifests.time, "time", lambda: now() + 10)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files whose contents were read."""
    names: list[str] = []
    digest = manifests.hashlib.file_digest

    def watched(file: Any, kind: str) -> Any:
        names.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(manifests.hashlib, "file_digest", watched)
    yield names


def replaced(path: Path) -> None:
    """Another content of the same size, with the old date of modification."""
    stat, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_only_what_has_changed_is_read_again(given: Path, later: None, reads: list[str]) -> None:
    home = Home(given.parent / "home")
    first = Manifests(home).tree(Tree.of(given, states=True))
    assert len(reads) == 30
    assert Manifests(home).tree(Tree.of(given, states=True)) == first and len(reads) == 30, (
        "another process remembers it"
    )
    replaced(given / "a" / "3.png")
    second = Manifests(home).tree(Tree.of(given, states=True))
    assert second != first and reads[30:] == ["3.png"]
    os.utime(given / "b" / "4.png")
    assert Manifests(home).tree(Tree.of(given, states=True)) == second and reads[31:] == ["4.png"]
    (given / "a" / "5.png").rename(given / "b" / "5.bmp")
    assert Manifests(home).tree(Tree.of(given, states=True)) != second


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"state": "x"}', '{"state": "x", "fingerprint": "y", "found": 3}'])
def test_a_damaged_manifest_is_made_again(text: str, given: Path, later: None, reads: list[str]) -> None:
    home = Home(given.parent / "home")
    first = Manifests(home).tree(Tree.of(given, states=True))
    for file in home.manifests.iterdir():
        file.write_text(text)
    found = Manifests(home)
    assert found.known(given) is None and found.found(given, "content", "x") is None
    assert found.tree(Tree.of(given, states=True)) == first and len(reads) == 60


def test_names_and_sizes_alone(given: Path, later: None, reads: list[str]) -> None:
    found = Manifests(Home(given.parent / "home"))
    first = found.tree(Tree.of(given, states=True), "sizes")
    replaced(given / "a" / "3.png")
    assert found.tree(Tree.of(given, states=True), "sizes") == first and not reads
    (given / "a" / "3.png").write_bytes(b"")
    assert found.tree(Tree.of(given, states=True), "sizes") != first


def test_what_was_just_written_is_not_remembered(given: Path, reads: list[str]) -> None:
    """A second change within the clock's resolution would not be seen."""
    for _ in range(2):
        Manifests(Home(given.parent / "home")).file(given / "a" / "1.png")
    assert len(reads) == 2


def test_without_a_home_nothing_is_written(given: Path, tmp_path: Path, later: None) -> None:
    home = Home(tmp_path / "none")
    assert len(Manifests(home).tree(Tree.of(given, states=True))) == 64 and not home.path.exists()


def experiment(folder: Path, data: str, name: str = "own") -> Path:
    shutil.copytree(ROOT / "tests" / "profiles", folder / "profiles", dirs_exist_ok=True)
    (folder / f"{name}.yaml").write_text(
        f"experiment: {name}\ntitle: t\nprofile: tiny\n"
        "base:\n"
        f"  data: {{channels: 3, image_size: 16, num_classes: 2, train_images: 1000, test_images: 1000, {data}}}\n"
        "  tokenizer: {steps: 2, batch_size: 2}\n  optim: {steps: 2, batch_size: 4}\n"
        "  generate: {num_images: 16}\n  score: {num_reference: 16}\n"
        "rows: [{label: x}]\ntable: {caption: none, columns: [{title: Run, label: true}]}\n"
    )
    return folder / f"{name}.yaml"


def planned(file: Path, home: Path) -> Plan:
    return make_plan(load(file), Home(home), None)


def keys(file: Path, home: Path) -> dict[str, str]:
    return planned(file, home).runs[0].stages


def test_a_small_set_is_at_most_what_was_asked_for(given: Path, tmp_path: Path, later: None) -> None:
    file = experiment(tmp_path, f"name: image-folder, path: {given}")
    plan = planned(file, tmp_path / "home")
    data = plan.runs[0].spec.data
    assert data.train_images + data.test_images == 30 and data.test_images > 0
    assert plan.found[0].startswith(f"data.path: {given}: 2 classes (a, b); {data.train_images} images to train on")
    asked = experiment(tmp_path, f"name: image-folder, path: {given}, train_images: {data.train_images}", "exact")
    asked.write_text(asked.read_text().replace("train_images: 1000, ", ""))
    assert planned(asked, tmp_path / "home").runs[0].stages["dataset"] == plan.runs[0].stages["dataset"], (
        "one and the same set"
    )
    strict = experiment(tmp_path, f"name: image-folder, path: {given}, exact_counts: true", "strict")
    with pytest.raises(
        DataError, match=r"^\S+strict.yaml:\d+: data.train_images: 1000 asked for, but the train split has"
    ):
        planned(strict, tmp_path / "home")
    large = load(file, sets=["optim.batch_size=64"])
    with pytest.raises(
        DataError,
        match=r"^--set optim.batch_size=64: optim.batch_size: 64 is more than data.train_images = \d+, of which .* holds no more",
    ):
        make_plan(large, Home(tmp_path / "home"), None)


def test_another_content_is_another_key(given: Path, tmp_path: Path, later: None) -> None:
    home = tmp_path / "home"
    folders = experiment(tmp_path, f"name: image-folder, path: {given}")
    before = keys(folders, home)
    replaced(given / "a" / "3.png")
    assert keys(folders, home)["dataset"] != before["dataset"]

    rows = [{"bytes": encoded(1), "path": ""}] * 40
    (tmp_path / "parquet").mkdir()
    parquet = experiment(tmp_path, f"name: parquet, path: {tmp_path / 'parquet'}", "parquet")
    found = []
    for shift in (0, 1):
        write_parquet(tmp_path / "parquet" / "train.parquet", rows, [(i + shift) % 2 for i in range(40)])
        found.append(keys(parquet, home)["dataset"])
    assert found[0] != found[1]

    folder, _ = codes_folder(tmp_path / "codes")
    text = f"name: image-folder, path: {given}, codes: {folder}"
    for changes, name in (("", "codes"), (", extra_crop_range: 1.05", "twenty")):
        file = experiment(tmp_path, text + changes, name)
        one = keys(file, home)
        assert keys(file, home) == one
        replaced(folder.with_name("ten_crop_105") / "imagenet256_codes" / "1.npy")
        assert (keys(file, home)["encode"] != one["encode"]) == bool(changes), "the sibling counts where it is read"
        replaced(folder / "imagenet256_codes" / "1.npy")
        assert keys(file, home)["encode"] != one["encode"] and keys(file, home)["dataset"] == one["dataset"]


def test_without_the_data_the_plan_is_what_it_was(given: Path, tmp_path: Path, later: None) -> None:
    file, home = experiment(tmp_path, f"name: image-folder, path: {given}"), Home(tmp_path / "home")
    plan = make_plan(load(file), home, None)
    given.rename(tmp_path / "unmounted")
    again = make_plan(load(file), home, None)
    assert again.runs[0].stages == plan.runs[0].stages and again.runs[0].spec == plan.runs[0].spec
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if str(given) in text)
    assert again.missing == [
        f"{file}:{line}: data.path: {given} is no folder here; give one with one subfolder per class, or train/ and val/ of such."
    ]
    assert make_plan(load(file), Home(tmp_path / "other"), None).runs[0].sources["data"] == "absent"


@pytest.mark.parametrize("how", ["content", "sizes"])
def test_an_imported_experiment_is_planned_without_its_data(how: str, given: Path, tmp_path: Path, later: None) -> None:
    """On another machine the same relative path is another place: the record says what was there, of every kind of input."""
    folder, _ = codes_folder(tmp_path / "codes")
    (tmp_path / "vq.pt").write_bytes(b"PK weights")

    def written(place: Path, images: Path, codes: Path, weights: Path) -> Path:
        file = experiment(place, f"name: image-folder, path: {images}, codes: {codes}, manifest: {how}")
        text = file.read_text().replace("tokenizer: {", f"tokenizer: {{weights: {weights}, ")
        file.write_text(text.replace("rows: [", "rows: [{label: new, spec: {optim: {steps: 3}}}, "))
        return file

    file, home = written(tmp_path / "cluster", given, folder, tmp_path / "vq.pt"), Home(tmp_path / "home")
    ledger = open_ledger(home)
    plan = make_plan(load(file), home, ledger)
    assert plan.runs[0].sources["data"].startswith("sizes ") == (how == "sizes") and not plan.missing
    register(make_plan(load(file).only(["x"]), home, ledger), home, ledger, lambda text: None)
    export_bundle(load(file), home.path, tmp_path / "reports", "none", tmp_path / "bundle.tar.gz")
    laptop = Home(tmp_path / "laptop")
    import_bundle(tmp_path / "bundle.tar.gz", laptop.path, tmp_path / "reports")
    assert {path.name for path in laptop.manifests.iterdir()} == {path.name for path in home.manifests.iterdir()}
    mine = tmp_path / "mine"
    elsewhere = written(mine, mine / "images", mine / "ten_crop", mine / "vq.pt")
    shutil.rmtree(given)
    shutil.rmtree(folder.parent)
    (tmp_path / "vq.pt").unlink()
    for one in (file, elsewhere):
        found = make_plan(load(one), laptop, None)
        assert [run.key for run in found.runs] == [run.key for run in plan.runs]
        assert found.runs[0].spec.data.train_images < 30 and len(found.missing) == 3
    assert [note.partition(":")[0] for note in found.assumed] == ["data.path", "tokenizer.weights", "data.codes"]
    assert all("counts as what it was when this experiment last ran" in note for note in found.assumed)


def test_of_two_sets_of_one_name_neither_is_taken_for_the_other(given: Path, tmp_path: Path, later: None) -> None:
    """With a misspelt path that agrees with both alike, nobody knows which was meant."""
    sets = {}
    for name in ("one", "two"):
        sets[name] = tmp_path / name / "images"
        shutil.copytree(given, sets[name])
    replaced(sets["two"] / "a" / "1.png")

    def written(first: Path, second: Path) -> Path:
        file = experiment(tmp_path, f"name: image-folder, path: {first}")
        text = file.read_text().replace("rows: [", f"rows: [{{label: second, spec: {{data: {{path: {second}}}}}}}, ")
        file.write_text(text)
        return file

    home = Home(tmp_path / "home")
    ledger = open_ledger(home)
    plan = make_plan(load(written(sets["one"], sets["two"])), home, ledger)
    register(plan, home, ledger, lambda text: None)
    assert plan.runs[0].sources != plan.runs[1].sources
    elsewhere = tmp_path / "laptop"
    moved = make_plan(load(written(elsewhere / "one" / "images", elsewhere / "two" / "images")), home, None)
    assert [run.sources["data"] for run in moved.runs] == [run.sources["data"] for run in plan.runs]
    text = written(elsewhere / "one" / "images", elsewhere / "two" / "images").read_text()
    (tmp_path / "own.yaml").write_text(text.replace("label: second", "label: third"))
    third = make_plan(load(tmp_path / "own.yaml"), home, None)
    assert {run.label: run.sources["data"] for run in third.runs}["third"] == "absent", "a new row was never seen"


def test_a_look_is_not_older_than_what_it_is_of(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just written is not remembered, and what had been seen there before is not told of it."""
    file = experiment(tmp_path, f"name: image-folder, path: {given}")
    with monkeypatch.context() as patched:  # the first look is at files that have stood for a while
        now = manifests.time.time
        patched.setattr(manifests.time, "time", lambda: now() + 10)
        assert planned(file, tmp_path / "home").found[0].startswith(f"data.path: {given}: 2 classes")
    shutil.rmtree(given / "b")
    with pytest.raises(DataError, match="has 1 class folder: a"):
        planned(file, tmp_path / "home")


def test_an_empty_class_folder_or_another_rule_is_looked_at_again(given: Path, tmp_path: Path, later: None) -> None:
    file = experiment(tmp_path, f"name: image-folder, path: {given}")
    before = keys(file, tmp_path / "home")
    (given / "c").mkdir()
    with pytest.raises(DataError, match="has the class folder c without an image"):
        planned(file, tmp_path / "home")
    (given / "c").rmdir()
    (given / "a" / "1.png").write_bytes(b"no picture")
    for _ in range(2):
        plan = planned(file, tmp_path / "home")
        assert any("a/1.png: cannot be read as an image" in reason for reason in plan.missing)
        assert not make_plan(load(file, sets=["data.bad_images=skip"]), Home(tmp_path / "home"), None).missing
    assert plan.runs[0].stages["dataset"] != before["dataset"]


def test_rows_of_two_data_sets_are_two_runs_and_resources_are_none(given: Path, tmp_path: Path) -> None:
    file = experiment(tmp_path, f"name: image-folder, path: {given}")
    text = file.read_text()
    file.write_text(text.replace("rows: [", "rows: [{label: second, spec: {resources: {threads: {train: 2}}}}, "))
    with pytest.raises(SpecError, match="'x' is the same run as 'second'"):
        load(file)
    file.write_text(text.replace("rows: [", "rows: [{label: second, spec: {data: {path: /elsewhere}}}, "))
    assert len(load(file).variants) == 2


@pytest.mark.parametrize(
    "size, count, message",
    [
        ((20, 20), 8, "generate.samples: .* has images of 20 x 20 pixels, the data's are 16 x 16"),
        ((16, 16), 3, "generate.samples: .* has 3 images, and precision and recall with score.neighbours: 3 need more"),
    ],
)
def test_given_samples_are_looked_at(
    size: tuple[int, int], count: int, message: str, given: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    for i in range(count):
        Image.new("RGBA", size, (i, 0, 0, 9)).save(folder / f"{i}.png")
    file = experiment(tmp_path, f"name: image-folder, path: {given}")
    with pytest.raises(DataError, match=message):
        make_plan(load(file, sets=[f"generate.samples={folder}"]), Home(tmp_path / "home"), None)

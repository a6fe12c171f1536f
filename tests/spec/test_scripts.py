"""Stages of the user's own as an experiment declares them: what is legal, and what is said of what is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from star.errors import SpecError
from star.spec.keys import stage_keys
from star.spec.load import load
from star.spec.load_search import load_search
from star.spec.run_class import parse_run
from tests.helpers import ROOT

SCRIPTS = ROOT / "tests" / "scripts"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the scripts."""
    shutil.copytree(SCRIPTS, tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "mine"


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        (
            "--lr {lr}",
            "--lr {rate}",
            5,
            "stages.fit.command: {rate} is not known here; legal: lr, width, epochs, images, seed",
        ),
        (
            "{out} --check",
            "{out!r} --check",
            5,
            "stages.fit.command: cannot be read: {out!r} is more than a name in braces",
        ),
        (
            "{default: 0.1, gt: 0, le: 1}",
            "{defaul: 0.1}",
            9,
            r"stages.fit.parameters.lr.defaul: unknown key (did you mean default?)",
        ),
        (
            "{default: 0.1, gt: 0, le: 1}",
            "{default: 0.1, type: int}",
            9,
            "parameters.lr.default: 0.1 is not of the type int",
        ),
        ("      epochs: 2", "      epochs: 2\n      more: 1", 12, "parameters.more: the command does not use it"),
        ("      epochs: 2", "      images: 2", 11, "stages.fit.parameters.images: 'images' means something else"),
        ("reads: {images:", "reads: {seed: x, images:", 7, "stages.fit.reads.seed: 'seed' means something else"),
        ("fit: {width: 128}", "fit: {width: wide}", 27, "fit.width: 'wide' is not legal; give a whole number from 1"),
        ("fit: {width: 128}", "fit: {width: 0}", 27, "fit.width: 0 is not legal"),
        ("fit: {width: 128}", "fit: {wdth: 128}", 27, "fit.wdth: unknown key (did you mean width?)"),
        ("fit: {width: 128}", "train: {width: 128}", 27, "train: unknown key"),
        ("fit: {width: 128}", "stages: {}", 27, "stages: belong to the experiment"),
        ("after: [fit]", "after: [fti]", 19, "stages.weigh.command: {fit} is not known here"),
        ("after: [fit]", "after: [fit, weigh]", 20, "stages.weigh.after: comes after itself"),
        ("[layers.py]", "[layer.py]", 6, "stages.fit.files.0: 'layer.py' matches no file"),
        ("gt: 0, le: 1}", "gt: 0.5}", 9, "stages.fit.parameters.lr.default: 0.1 breaks its own limit gt: 0.5"),
        ("epochs: 2", "epochs: {default: a, gt: 0}", 11, "stages.fit.parameters.epochs.gt: limits are for numbers"),
        ("epochs: 2", "epochs: {default: a, choices: [b, c]}", 11, "'a' is not among its choices: b, c"),
        ("epochs: 2", "epochs: {default: 2, neutral: 0, ge: 1}", 11, "epochs.neutral: 0 breaks its own limit ge: 1"),
        ("python train.py", "python tain.py", 5, "stages.fit.command: tain.py is no file in"),
        ("python train.py", "python ../mine/train.py", 5, "stages.fit.command: ../mine/train.py lies outside of"),
        ("python weigh.py", f"python {SCRIPTS}/weigh.py", 19, "its content would be in no key"),
        ("    files: [layers.py]", "    files: [layers.py]\n    folder: nope", 7, "nope is no folder"),
        (
            "python train.py",
            "python 'train.py",
            5,
            "stages.fit.command: cannot be split into words: no closing quotation",
        ),
        ("\n  fit:", "\n  training:", 4, "stages.training: 'training' is a part of every run already"),
        (
            "epochs: 2",
            "model_dump: 2",
            11,
            "stages.fit.parameters.model_dump: 'model_dump' cannot be a parameter's name",
        ),
        ("[accuracy]", "[seconds]", 12, "stages.fit.results: 'seconds' every stage has; give it another name"),
        ("[accuracy]", "[accuracy, loss]", 12, "stages.fit.results: 'loss' is a result and a curve"),
        (
            "[accuracy]",
            "[accuracy]\n    results_file: '{seed}.json'",
            13,
            "stages.fit.results_file: '{seed}.json': give a path in {out}",
        ),
        (
            "seeds: [0, 1]",
            "  a: {command: ls, after: [b]}\n  b: {command: ls, after: [c]}\n  c: {command: ls, after: [b]}\nseeds: [0, 1]",
            24,
            "after: comes after itself",
        ),
        ("[layers.py]", "[../layers.py]", 6, "stages.fit.files.0: '../layers.py' leads out of"),
        ("--seed {seed}", "", 23, "seeds: no command uses its seed"),
        (
            "metric: fit/accuracy, s",
            "metric: fit/accuray, s",
            32,
            "did you mean fit/accuracy?); legal: fit/accuracy, weigh/norm, and",
        ),
        ("\n  fit:", "\n  train:", 4, "stages.train: 'train' is a part of every run already"),
        ("\n  fit:", "\n  out:", 4, "stages.out: 'out' is a part of every run already"),
        ("\n  fit:", "\n  my-fit:", 4, "stages.my-fit: is no name in braces: give lower-case letters, digits and _"),
        ("lr: {default: 0.1, gt: 0, le: 1}", "lr: {type: float}", 0, "fit.lr: is missing; give a number"),
        (
            "    results: [accuracy]\n    curves: {loss: epoch}\n",
            "",
            0,
            "'fit/accuracy' is no result; legal: weigh/norm",
        ),
        (
            "seeds: [0, 1]",
            "targets: [fitt]\nseeds: [0, 1]",
            23,
            "targets.0: 'fitt' is no stage to reach (did you mean fit?)",
        ),
        (
            "length: epochs",
            "length: lr",
            16,
            "stages.fit.length: 'lr' is no parameter that is a whole number; those are: width, epochs",
        ),
        ("[accuracy]", "{accuracy: 'acc: .*'}", 12, "stages.fit.results: 'acc: .*' has no group"),
        ("[accuracy]", "{accuracy: '(('}", 12, "stages.fit.results: '((' is no regular expression"),
        (
            "keeps: checkpoints",
            "keeps: shards",
            15,
            "stages.fit.keeps: 'shards' is not legal; give checkpoints or null",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(folder: Path, old: str, new: str, line: int, says: str) -> None:
    file = folder / "classifier.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(SpecError) as raised:
        load(file)
    told = str(raised.value)
    assert says in told, told
    assert told.startswith(f"{file}:{line}: " if line else str(file)), told


@pytest.mark.parametrize(
    ("text", "says"), [("fit.lr=2", "fit.lr: 2 is not legal"), ("fit.le=1", "fit has no field 'le'")]
)
def test_set_is_checked_too(folder: Path, text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as raised:
        load(folder / "classifier.yaml", sets=[text])
    assert str(raised.value).startswith(f"--set {text}: ")


def test_a_whole_number_and_a_float_are_one_value(folder: Path) -> None:
    file = folder / "classifier.yaml"
    for declared in ("{default: 1, type: float, choices: [1, 0.1]}", "{default: 1.0, neutral: 1}"):
        (folder / "x.yaml").write_text(file.read_text().replace("{default: 0.1, gt: 0, le: 1}", declared))
        runs = [load(folder / "x.yaml", sets=sets).variants[0].runs[0] for sets in ([], ["fit.lr=1"], ["fit.lr=1.0"])]
        runs.append(parse_run(runs[0].model_dump(mode="json")))
        assert len({stage_keys(run, {})["fit"] for run in runs}) == 1
        assert {repr(run.fit.lr) for run in runs} == {"1.0"}  # type: ignore[attr-defined]


def test_a_run_that_was_recorded_is_the_run(folder: Path) -> None:
    for variant in load(folder / "classifier.yaml").variants:
        for run in variant.runs:
            again = parse_run(run.model_dump(mode="json"))
            assert again == run and type(again) is type(run)
            assert list(run.pipeline) == ["fit", "weigh"] and not hasattr(run, "optim")


def test_two_scripts_of_one_name_keep_apart(folder: Path) -> None:
    """In the copy that is kept beside the experiment's record."""
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "it.py").write_text(f"print('{name}')")
    file = folder / "two.yaml"
    stages = "".join(f"  {name}: {{command: python it.py, folder: {name}}}\n" for name in ("a", "b"))
    file.write_text(
        f"experiment: two\ntitle: Two\nstages:\n{stages}rows: [{{label: one}}]\n"
        "table: {caption: Two, columns: [{title: Row, label: true}]}\n"
    )
    written = load(file).written
    assert written["a/it.py"] == "print('a')" and written["b/it.py"] == "print('b')"
    copy = folder / "copy"
    for name, text in written.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    assert load(copy / "two.yaml").variants[0].runs[0].stages["b"].folder == str(copy / "b")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("\n  fit:", "\n  train:", "stages.train: 'train' is a part of every run already"),
        ("    length: epochs\n", "", "pruner: ends trials early, and no command says how it is ended"),
        ("fit.lr: {", "fit.le: {", "space.fit.le: fit has no field 'le' (did you mean lr?)"),
        ("min_steps: 1", "min_steps: 4", "pruner.min_steps: 4 is not before the end of training, 4 steps"),
        ("fit.width: {low: 8, high: 64}", "fit.epochs: {low: 2, high: 8}", "is how far trials are compared"),
        ("metric: fit/accuracy", "metric: fit/accuray", "'fit/accuray' is no result (did you mean fit/accuracy?)"),
    ],
)
def test_what_is_wrong_with_a_search_is_said(folder: Path, old: str, new: str, says: str) -> None:
    file = folder / "search.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(SpecError) as raised:
        load_search(file)
    assert says in str(raised.value) and str(raised.value).startswith(f"{file}:"), raised.value

"""A mistake in a spec: file, line, dotted path, value, what is legal, the nearest legal name."""

from __future__ import annotations

from pathlib import Path

import pytest

from star.errors import DataError, SpecError
from star.pipeline import STAGES
from star.rundir import Home
from star.scheduler.inputs import ExternalInputs
from star.spec.graph import needed_of
from star.spec.load import load
from tests.helpers import ROOT, TINY, tiny

MISTAKES = [
    # (text in the file, in its place, what the message must hold)
    ("title: Two runs in seconds", "titel: Two", ["line 2", "titel", "did you mean title?"]),
    ("profile: tiny", "profile: tinny", ["line 3", "'tinny'", "did you mean tiny?"]),
    (
        "selfguided.mask_ratio: [0.25, 0.5]",
        "selfguided.mask_rato: [0.25, 0.5]",
        ["line 5", "mask_rato", "did you mean mask_ratio?"],
    ),
    (
        "selfguided.mask_ratio: [0.25, 0.5]",
        "selfguided.mask_ratio: [0.25, 1.5]",
        ["line 5", "selfguided.mask_ratio", "1.5", "from 0 to below 1"],
    ),
    ("selfguided.mask_ratio: [0.25, 0.5]", "selfguided.mask_ratio: [0.25, high]", ["line 5", "'high'", "a number"]),
    ("selfguided.mask_ratio: [0.25, 0.5]", "selfguided.mask_ratio: [0.25, 0.25]", ["line 5", "stands twice"]),
    ("selfguided.mask_ratio: [0.25, 0.5]", "resources.checkpoint_every: [5, 6]", ["line 5", "changes nothing"]),
    (
        "selfguided.mask_ratio: [0.25, 0.5]",
        "selfguided.contrastive_layer: [1/2, 1/3]",
        ["line 5", "hits no layer", "1/2"],
    ),
    ("axes:", "base: {optim: {steps: 3.5}}\naxes:", ["line 4", "optim.steps", "3.5", "whole number"]),
    ("axes:", "base: {optim: {epochs: 2}}\naxes:", ["line 4", "optim.epochs: steps is", "null takes one away"]),
    (
        "axes:",
        "base: {optim: {steps: null}}\naxes:",
        ["line 4", "optim: nothing says how long to train; name a preset"],
    ),
    (
        "spec: selfguided.mask_ratio",
        "spec: terms.mine.weight",
        ["terms.mine.weight: a run has no field 'terms' (no plugin of this file"],
    ),
    ("axes:", "base: {model: {dim: 18}}\naxes:", ["line 4", "model.dim", "heads"]),
    ("axes:", "base: {model: {n_head: 3}}\naxes:", ["line 4", "model.n_head", "n_head may be 1, 2, 4"]),
    ("axes:", "base: {selfguided: {student_views: 3}}\naxes:", ["line 4", "selfguided.student_views", "3 of 2 views"]),
    ("axes:", "base: !mine {optim: {steps: 3}}\naxes:", ["line 4", "base: the tag '!mine' means nothing here"]),
    ("axes:", "seeds: !!set [1]\naxes:", ["line 4", "seeds: the tag", "means nothing here"]),
    ("axes:", "base: a: b\naxes:", ["line 4", "not valid YAML", "wants quotes"]),
    ("axes:", "seeds:\n\t- 1\naxes:", ["line 5", "not valid YAML", "indent with spaces"]),
    ("axes:", "base: {optim: {lr: }}\naxes:", ["line 4", "optim.lr: is empty (null); give a number above 0."]),
    ("axes:", "base: {optim: {lr: true}}\naxes:", ["line 4", "optim.lr: true is not legal"]),
    ("axes:", "seeds: 0\naxes:", ["line 4", "seeds: 0 is not legal", "a whole number from 0 to below 2147483648"]),
    (
        "axes:",
        "use: [3]\naxes:",
        ["line 4", "use.0: 3 is not legal; give text, in quotes: without them this is a number"],
    ),
    ("axes:", "base: {selfguided: {contrastive_layer: 0.5}}\naxes:", ["line 4", "0.5 is not legal", "such as 1/2"]),
    ("axes:", "figures: [{kind: }]\naxes:", ["line 4", "figures.0: kind: is empty (null); give one of ablation"]),
    ("better: higher, scale: 100", "better: higher, scale: -1", ["scale: give a factor above 0"]),
    ("axes:", "base: {data: {image_size: 30}}\naxes:", ["line 4", "data.image_size", "multiple of 4"]),
    ("axes:", "base: {data: {name: fashion_mnist}}\naxes:", ["line 4", "data.name", "did you mean fashion-mnist?"]),
    ("axes:", "base: {score: {extractor: inceptoin}}\naxes:", ["line 4", "score.extractor", "did you mean inception?"]),
    ("axes:", "base: {score: {weights: a.pth}}\naxes:", ["line 4", "score.weights", "give extractor: inception"]),
    ("axes:", "base: {score: {neighbours: 40}}\naxes:", ["line 4", "score.neighbours", "too many for 40 images"]),
    ("axes:", "base: {invariance: {shifts: [1, 27]}}\naxes:", ["line 4", "invariance.shifts", "27 leaves nothing"]),
    ("axes:", "use: [B]\naxes:", ["line 4", "'B'", "no preset"]),
    ("axes:", "seeds: [1, 1]\naxes:", ["line 4", "a seed stands twice"]),
    ("metric: probe/accuracy", "metric: probe/acuracy", ["line 13", "did you mean probe/accuracy?"]),
    ("better: lower", "better: down", ["line 12", "one of lower, higher"]),
    ("spec: selfguided.mask_ratio}", "spec: selfguided.mask_ratio, better: lower}", ["line 11", "shows no metric"]),
    ("metric: probe/accuracy", "check: true, metric: probe/accuracy", ["line 13", "shows no spec field"]),
    (
        "targets: [score, probe]",
        "targets: [score, probe, invariance]\nfigures: [{name: codes, kind: codes, title: Codes, shift: 3}]",
        ["line 15", "figures.0.shift: 3 is not measured", "holds 1, 2"],
    ),
    ("caption: Two runs", "caption: Two runs\n  caption: Two", ["line 8", "written twice"]),
    (
        "caption: Two runs",
        "caption: [Two runs",
        ["not valid YAML", "but got ':'; the bracket of line 7, column 12, is open there"],
    ),
    ("table:", "ad: {rows: []}\ntable:", ["ad: unknown key (did you mean add?)"]),
    (
        "table:",
        "base: {momentum: 1, optim: {mask_ratio: 0.1}}\ntable:",
        ["optim.mask_ratio: unknown key (did you mean selfguided.mask_ratio?)"],
    ),
    (
        "table:",
        "base: {selfguided.temperature: 1}\ntable:",
        ["(dots are not read here: write selfguided: {temperature: ...})"],
    ),
    (
        "table:",
        "base: {terms: {doubt: {weight: 1}}}\ntable:",
        ["(no plugin of this file defines terms: name one, plugins: [FILE.py])"],
    ),
    ("spec: selfguided.mask_ratio}", "spec: mask_ratio}", ["'mask_ratio' (did you mean selfguided.mask_ratio?)"]),
    (
        "table:",
        "selfguided: {temperature: 1}\ntable:",
        ["selfguided: unknown key (a section of runs: write it in `base`)"],
    ),
    (
        "axes:\n  selfguided.mask_ratio: [0.25, 0.5]\n",
        "rows:\n  - {label: a, selfguided: {temperature: 1}}\n",
        ["line 5", "rows.0.selfguided: unknown key (a section of runs: write it in `spec`)"],
    ),
]


def mistaken(folder: Path, old: str, new: str) -> Path:
    text = TINY.read_text()
    assert old in text
    (folder / "profiles").symlink_to(TINY.parent / "profiles")
    path = folder / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize("old, new, holds", MISTAKES, ids=[new for _, new, _ in MISTAKES])
def test_a_mistake_is_named_where_it_is(tmp_path: Path, old: str, new: str, holds: list[str]) -> None:
    path = mistaken(tmp_path, old, new)
    with pytest.raises(SpecError) as caught:
        load(path)
    message = str(caught.value)
    for part in holds:
        expected = f"{path}:{part.removeprefix('line ')}:" if part.startswith("line ") else part
        assert expected in message, message


def test_a_mistake_in_the_profile_names_the_profile(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    profile = (TINY.parent / "profiles" / "tiny.yaml").read_text().replace("n_layer: 2", "n_layers: 2")
    (tmp_path / "profiles" / "tiny.yaml").write_text(profile)
    (tmp_path / "mine.yaml").write_text(TINY.read_text())
    with pytest.raises(
        SpecError, match=r"profiles/tiny\.yaml:5: model\.n_layers: unknown key \(did you mean n_layer\?\)"
    ):
        load(tmp_path / "mine.yaml")


def test_rows_that_are_the_same_run(tmp_path: Path) -> None:
    off = "{mim_weight: 0, contrastive_weight: 0"
    rows = f"rows:\n  - label: a\n    spec: {{selfguided: {off}}}}}\n  - label: b\n    spec: {{selfguided: {off}, mask_ratio: 0.1}}}}\n"
    path = mistaken(tmp_path, "axes:\n  selfguided.mask_ratio: [0.25, 0.5]\n", rows)
    with pytest.raises(SpecError, match=r"mine\.yaml:7: rows: 'b' is the same run as 'a'"):
        load(path)


@pytest.mark.parametrize(
    "text, holds",
    [
        ("optim.step=3", "did you mean steps?"),
        ("optim.steps", "path=value"),
        ("optim.steps=-3", "optim.steps: -3"),
        ("selfguided.mask_ratio=0.1", "is what the rows vary"),
        ("seed=3", "seeds belong to the experiment"),
        ("optim.lr=1e-3", None),
    ],
)
def test_set(text: str, holds: str | None) -> None:
    if holds is None:
        assert load(TINY, sets=[text]).variants[0].runs[0].optim.lr == 1e-3
        return
    with pytest.raises(SpecError) as caught:
        load(TINY, sets=[text])
    assert holds in str(caught.value) and f"--set {text}" in str(caught.value)


@pytest.mark.parametrize("name", [f"table{i}" for i in range(1, 7)])
@pytest.mark.parametrize("profile", ["fashion", "imagenet256"])
def test_the_papers_tables_resolve(name: str, profile: str) -> None:
    experiment = load(ROOT / "experiments" / f"{name}.yaml", profile)
    rows = {"table1": 14, "table2": 21, "table3": 6, "table4": 4, "table5": 4, "table6": 4}
    assert len(experiment.variants) == rows[name]


def test_given_paths_do_not_depend_on_where_a_worker_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    sets = ["score.reference=real.npz", "tokenizer.weights=~/vq.pt", "data.path=/absolute", "data.name=image-folder"]
    spec = load(TINY, sets=sets).variants[0].runs[0]
    assert spec.score.reference == str(tmp_path / "real.npz")
    assert (spec.tokenizer.weights, spec.data.path) == ("/home/somebody/vq.pt", "/absolute")


def test_a_batch_larger_than_the_data_is_what_is_told(tmp_path: Path) -> None:
    """Not that its epochs have no steps, which follows from it."""
    wrong = {"data__train_images": 100, "score__num_reference": 50, "optim__batch_size": 128, "optim__stop_at_step": 5}
    with pytest.raises(ValueError, match="128 is more than data.train_images = 100"):
        tiny(optim__steps=None, optim__epochs=2, **wrong)


@pytest.mark.parametrize("targets, says", [(["train"], None), (["score"], "is not pt_inception")])
def test_files_of_scores_are_checked_where_scores_are_reached(
    targets: list[str], says: str | None, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(b"x" * 100)
    run = tiny(score__extractor="inception", score__weights=str(tmp_path / "weights"))
    outside = ExternalInputs(Home(tmp_path / "home"), needed_of(targets, STAGES), [("a row", run)], dict)
    if says is None:
        outside.of(run)
    else:
        with pytest.raises(DataError, match=says):
            outside.of(run)

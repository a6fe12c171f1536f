"""Plugins where an experiment's file is read: what is refused, and in which words; what a run holds of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from star.errors import SpecError
from star.pipeline.config.plugged import RunWithPlugins
from star.scheduler.registration import reached
from star.search.study import identity
from star.spec.keys import stage_keys
from star.spec.load import load
from star.spec.load_search import load_search
from star.spec.own_stages import recorded_stages
from star.spec.run_class import parse_run
from star.tracking.writer import flattened
from tests.helpers import ROOT

PLUGIN = """from pydantic import Field

from star.plugin import Stage, StageConfig, TermConfig


class HumConfig(TermConfig):
    size: int = Field(8, ge=2)

class Hum:
    name = "hum"
    config = HumConfig
    loss_names = ("hum_loss",)
    changes = frozenset()
    teacher = None
    version = None

    def loss(self, out, targets, batch, rows):
        return {}

class LoudnessConfig(StageConfig):
    images: int = Field(10, ge=1)

class Loudness(Stage):
    name = "loudness"
    config = LoudnessConfig
    after = ("generate",)
    results = ("mean",)
    curves = {"mean_by_row": "row"}

    def run(self, config, job):
        return {"mean": 0.0}
"""
YAML = """experiment: own
title: Of one's own
profile: tiny
plugins: [lab.py]
targets: [probe, loudness]
rows:
  - {label: plain}
  - {label: hum, spec: {terms: {hum: {weight: 0.5}}}}
  - {label: quiet, spec: {loudness: {images: 5}}}
table:
  caption: All
  columns:
    - {title: Weight, spec: terms.hum.weight}
    - {title: Loudness, metric: loudness/mean}
    - {title: Hum, metric: train/hum_loss@last}
"""


def written(folder: Path, plugin: str = PLUGIN, yaml: str = YAML, name: str = "lab.py") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text(plugin)
    if not (folder / "profiles").exists():
        (folder / "profiles").symlink_to(ROOT / "tests" / "profiles")
    (folder / "own.yaml").write_text(yaml)
    return folder / "own.yaml"


def keys_of(path: Path, **options: Any) -> dict[str, dict[str, str]]:
    return {variant.label: stage_keys(variant.runs[0], {}) for variant in load(path, **options).variants}


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("from pydantic import Field", "from pydantic import Feeld", ["lab.py:1: ImportError", "Feeld"]),
        ("class HumConfig", "class (", ["lab.py:6: SyntaxError"]),
        ("    size: int = Field(8, ge=2)", "    size: int = 1 / 0", ["lab.py:7: ZeroDivisionError: division by zero."]),
        ("from pydantic", "raise SystemExit(3)\nfrom pydantic", ["lab.py:1: SystemExit: 3."]),
        ("Field(8, ge=2)", "Field(ge=2)", ["Hum: config: size has no default"]),
        ('"hum"', '"Hum"', ["Hum: name: 'Hum' is no name: give lower-case letters"]),
        ('"hum"', '"mim"', ["Hum: name: 'mim' is a name of ST-AR's own"]),
        ('"hum_loss"', '"ar_loss"', ["Hum: loss_names: 'ar_loss' is recorded of every training"]),
        ('"hum_loss"', '"hum loss"', ["Hum: loss_names: 'hum loss' is no name that MLflow takes"]),
        ("version = None", "version = 0", ["Hum: version: 0 is not legal"]),
        ('"loudness"', '"train"', ["plugins: lab: stage train: 'train' is a part of every run already"]),
        ('"loudness"', '"terms"', ["stage terms: 'terms' is a part of every run already"]),
        ('"generate",', '"generat",', ["stage loudness: 'generat' is no stage; there are: loudness, dataset"]),
        ('"generate",', '"loudness",', ["stage loudness: comes after itself"]),
        ('("mean",)', '("seconds",)', ["Loudness: 'seconds' every stage has; give it another name"]),
        ('"mean_by_row"', '"mean"', ["Loudness: 'mean' is a result and a curve"]),
        ('"loudness"', '"channels"', ["Loudness: name: 'channels' means something else in a run"]),
        ('"hum"', '"model_dump"', ["Hum: name: 'model_dump' means something else in a run"]),
        ('("hum_loss",)', '"hum_loss"', ["Hum: loss_names: 'hum_loss' is a text; give a tuple: ('hum_loss',)."]),
        ("    def loss(", "    def los(", ["Hum: has loss_names ('hum_loss',) and no method loss"]),
        ('("hum_loss",)', "()", ["Hum: has a loss and no loss_names; name what it returns"]),
        ("    teacher = None\n", "", ["Hum: has no teacher; derive it from star.objectives.Term."]),
        ("Field(8, ge=2)", "Field(1, ge=2)", ["Hum: config: its defaults are not legal", "size"]),
        ("size: int = Field(8, ge=2)", "size: tuple[int, ...] = (1, 2)", ["config: its defaults are not legal, or no plain JSON"]),
        ("    def run(", "    def walk(", ["Loudness: has no run"]),
        ('("generate",)', '"generate"', ["Loudness: after: 'generate' is a text; give a tuple: ('generate',)."]),
        ('{"mean_by_row": "row"}', '("mean_by_row",)', ["Loudness: curves: give a mapping of names to what a step is"]),
        ("changes = frozenset()", 'changes = {"input"}', ["Hum: changes: 'input' is nothing that a term changes"]),
        ("class Loudness(", "Twin = type('Twin', (Hum,), {'__module__': __name__})\n\n\nclass Loudness(", ["both called 'hum'"]),
        ("    images: int", "    neutral = {'sound': 1}\n    images: int", ["Loudness: config: neutral names 'sound'"]),
    ],
)  # fmt: skip
def test_what_a_plugin_does_wrong_is_said_with_its_place(
    tmp_path: Path, old: str, new: str, expected: list[str]
) -> None:
    assert old in PLUGIN
    path = written(tmp_path, PLUGIN.replace(old, new))
    with pytest.raises(SpecError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:4: plugins") and "\n" not in text and all(part in text for part in expected), text


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("[lab.py]", "[lob.py]", ["own.yaml:4: plugins.0: lob.py: ", "is no file; give a path from"]),
        ("[lab.py]", "[lab]", ["own.yaml:4: plugins.0: lab: is no installed plugin", "end in .py"]),
        ("[lab.py]", "lab.py", ["own.yaml:4: plugins: give a list of files"]),
        ("[lab.py]", "[lab.py, ./lab.py]", ["own.yaml:4: plugins.1: ./lab.py: is called lab, as lab.py does"]),
        ("[lab.py]", "[lab.py, other.py]", ["own.yaml:4: plugins.1: other.py: declares hum, as lab.py does"]),
        ("[lab.py]", "[my-lab.py]", ["plugins.0: my-lab.py: 'my-lab' is no name of a module"]),
        ("weight: 0.5", "weight: -1", ["own.yaml:8: terms.hum.weight: -1 is not legal; give a number from 0"]),
        ("weight: 0.5", "weight: 1, sise: 3", ["own.yaml:8: terms.hum.sise: unknown key (did you mean size?)"]),
        ("{hum: {w", "{him: {w", ["own.yaml:8: terms.him: unknown key (did you mean hum?)"]),
        ("images: 5", "images: 0", ["own.yaml:9: loudness.images: 0 is not legal; give a whole number from 1"]),
        ("terms.hum.weight}", "terms.hum.wait}", ["own.yaml:13: table.columns.0.spec", "did you mean weight?"]),
        ("loudness/mean", "loudness/meen", ["own.yaml:14:", "loudness/meen", "did you mean loudness/mean"]),
        ("train/hum_loss", "train/hum_lose", ["own.yaml:15:", "train/hum_lose"]),
        ("{label: plain}", "{label: plain, spec: {plugins: [lab.py]}}", ["own.yaml:7: plugins: belong to the experiment"]),
    ],
)  # fmt: skip
def test_what_an_experiment_says_wrong_of_a_plugin(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert old in YAML
    path = written(tmp_path, yaml=YAML.replace(old, new))
    for name in ("other.py", "my-lab.py"):
        (tmp_path / name).write_text(PLUGIN)
    with pytest.raises(SpecError) as caught:
        load(path)
    assert all(part in str(caught.value) for part in expected), caught.value


def test_only_what_uses_a_plugin_has_it_in_its_keys(tmp_path: Path) -> None:
    found = keys_of(written(tmp_path))
    without = YAML.replace("plugins: [lab.py]\n", "").replace(", loudness]", "]").split("  - {label: hum")[0]
    table = "table: {caption: All, columns: [{title: Probe, metric: probe/accuracy}]}\n"
    plain = keys_of(written(tmp_path / "plain", yaml=without + table))["plain"]
    assert {stage: key for stage, key in found["plain"].items() if stage != "loudness"} == plain
    assert found["hum"]["train"] != plain["train"] == found["quiet"]["train"]
    assert found["quiet"]["loudness"] != found["plain"]["loudness"]
    changed = keys_of(written(tmp_path, PLUGIN + "\n"))
    differ = {(row, stage) for row in found for stage in found[row] if found[row][stage] != changed[row][stage]}
    after = {"train", "generate", "score", "probe", "attention"}
    assert differ == {(row, "loudness") for row in found} | {("hum", stage) for stage in after}


READS = "__import__('types').SimpleNamespace(all_views=False)"


def test_a_term_that_reads_the_teacher_brings_its_average_into_the_key(tmp_path: Path) -> None:
    """ST-AR's own fields of it count for nothing in a baseline, until somebody reads them."""
    base = "base: {selfguided: {mim_weight: 0, contrastive_weight: 0}}\nrows:"
    for teacher, differs in (("None", False), (READS, True)):
        path = written(tmp_path, PLUGIN.replace("teacher = None", f"teacher = {teacher}"), YAML.replace("rows:", base))
        one, two = (keys_of(path, sets=[f"selfguided.ema_decay={decay}"])["hum"]["train"] for decay in (0.5, 0.9))
        assert (one != two) is differs
    with pytest.raises(SpecError, match="has no teacher to sample from"):
        load(path, sets=["generate.weights=teacher"])
    everywhere = YAML.replace("rows:", base.replace("base: {", "base: {terms: {hum: {weight: 0.1}}, "))
    path = written(tmp_path, PLUGIN.replace("teacher = None", f"teacher = {READS}"), everywhere)
    assert load(path, sets=["generate.weights=teacher"]).variants[0].runs[0].generate.weights == "teacher"  # type: ignore[attr-defined]


def test_two_terms_that_change_the_same_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, PLUGIN.replace("changes = frozenset()", 'changes = frozenset({"attend"})'))
    with pytest.raises(SpecError, match="own.yaml:8: terms.hum: hum and hidden_keys both change the student's attend"):
        load(path)


def test_a_recorded_run_is_read_without_the_code(tmp_path: Path) -> None:
    run = load(written(tmp_path)).variants[1].runs[0]
    recorded = json.loads(run.model_dump_json())
    (tmp_path / "lab.py").unlink()
    forgotten = {**recorded, "plugins": {"lab.py": {**recorded["plugins"]["lab.py"], "digest": "0" * 16}}}
    for values in (recorded, forgotten):
        again = parse_run(values)
        assert isinstance(again, RunWithPlugins) and again.model_dump(mode="json") == values
        assert [name for name, _, _ in again.own_terms] == ["hum"] and "hum_loss" in again.pipeline["train"].curves
    assert stage_keys(parse_run(recorded), {}) == stage_keys(run, {})


def test_a_file_that_extends_another_finds_its_plugins(tmp_path: Path) -> None:
    written(tmp_path / "parents")
    own = written(tmp_path / "mine", PLUGIN.replace("hum", "purr").replace("loudness", "silence"), "", "cat.py")
    own.write_text("extends: ../parents/own.yaml\nexperiment: mine\nadd: {plugins: [cat.py]}\n")
    mine = load(own)
    assert list(mine.spec.plugins) == ["lab.py", "cat.py"]
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, text in mine.written.items():
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(text)
    assert keys_of(copy / "mine.yaml") == keys_of(own)


@pytest.mark.parametrize("place", ["../../lab.py", "~/lab.py", "./lab.py", "{folder}/lab.py", "sub/lab.py"])
def test_mlflow_takes_what_a_run_says_of_a_plugin_wherever_it_lies(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.utils.validation import _validate_param_name

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = written(tmp_path / "a" / "b", yaml=YAML.replace("[lab.py]", f"[{place.format(folder=tmp_path)}]"))
    for folder in (tmp_path, tmp_path / "home", tmp_path / "a" / "b" / "sub"):
        folder.mkdir(exist_ok=True)
        (folder / "lab.py").write_text(PLUGIN)
    run = load(path).variants[1].runs[0]
    for name in flattened(run.model_dump(mode="json")):
        _validate_param_name(name)
    assert list(run.plugins) == ["lab.py"]  # type: ignore[attr-defined]


def test_a_search_varies_a_term(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(
        "search: hums\ntitle: Hums\nprofile: tiny\nplugins: [lab.py]\ntrials: 2\n"
        "space: {terms.hum.weight: {low: 0.0, high: 1.0}}\nobjectives: [{metric: loudness/mean, direction: maximize}]\n"
    )
    search = load_search(path)
    assert search.default.terms.hum.weight == 0.0 and search.targets == ("loudness",)  # type: ignore[attr-defined]
    path.write_text(path.read_text().replace("hum.weight", "hum.size"))
    with pytest.raises(SpecError, match="terms.hum.size"):
        load_search(path)


@pytest.mark.parametrize("package", [False, True])
def test_an_installed_plugin_is_named_by_its_entry_point(
    tmp_path: Path, package: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module, or a package whose every file counts."""
    site, name = tmp_path / "site", f"hum_lab_{package}".lower()
    module = site / name if package else site
    info = site / f"{name}-1.0.dist-info"
    for folder in (site, module, info):
        folder.mkdir(exist_ok=True)
    (module / "__init__.py" if package else module / f"{name}.py").write_text(
        "from .parts import Hum, HumConfig, Loudness\n" if package else PLUGIN
    )
    if package:
        (module / "parts.py").write_text(PLUGIN)
        (module / "table.csv").write_text("1,2\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[star.plugins]\nhums = {name}\n")
    monkeypatch.syspath_prepend(str(site))
    path = written(tmp_path / "study", yaml=YAML.replace("lab.py", "hums"))
    before = keys_of(path)
    plugin = load(path).spec.plugins["hums"]
    assert plugin.module == name and set(plugin.terms) == {"hum"} and set(plugin.stages) == {"loudness"}
    assert name not in sys.modules, "its files are imported under a name of their own"
    changed = module / "table.csv" if package else module / f"{name}.py"
    changed.write_text(changed.read_text() + "# more\n")
    after = keys_of(path)
    assert before["hum"]["train"] != after["hum"]["train"] and before["plain"]["train"] == after["plain"]["train"]


def test_an_experiment_reaches_what_a_plugins_stage_needs(tmp_path: Path) -> None:
    """As the ledger has it: whoever cleans up or cancels asks there."""
    experiment = load(written(tmp_path, yaml=YAML.replace("[probe, loudness]", "[loudness]")))
    assert (
        reached(experiment) == experiment.needed == ("dataset", "tokenizer", "encode", "train", "generate", "loudness")
    )


def test_the_order_in_a_file_is_no_matter(tmp_path: Path) -> None:
    """Modules of terms draw their first weights one by one, so the order has to be the same where the key is."""
    both = YAML.replace("terms: {hum: {weight: 0.5}}", "terms: {hum: {weight: 0.5}, buzz: {weight: 0.5}}")
    found = []
    for order in ("[lab.py, other.py]", "[other.py, lab.py]"):
        path = written(tmp_path, yaml=both.replace("[lab.py]", order))
        (tmp_path / "other.py").write_text(PLUGIN.replace("hum", "buzz").replace("loudness", "silence"))
        run = load(path).variants[1].runs[0]
        assert isinstance(run, RunWithPlugins)
        found.append(([name for name, _, _ in run.own_terms], stage_keys(run, {})["train"]))
    assert found[0] == found[1] and found[0][0] == ["buzz", "hum"]


def test_an_average_of_a_head_brings_its_rate_into_the_key(tmp_path: Path) -> None:
    base = "base: {selfguided: {mim_weight: 0, contrastive_weight: 0}}\nrows:"
    plugin = PLUGIN.replace("    teacher = None", "    teacher = None\n    averages_head = True")
    path = written(tmp_path, plugin, YAML.replace("rows:", base))
    one, two = (keys_of(path, sets=[f"selfguided.ema_decay={decay}"])["hum"]["train"] for decay in (0.5, 0.9))
    assert one != two


SEARCH = """search: hums
title: Hums
profile: tiny
plugins: [lab.py]
trials: 2
base: {terms: {hum: {weight: 0.5}}}
space: {terms.hum.weight: {low: 0.0, high: 1.0}, terms.hum.size: {choices: [4, 8]}}
objectives: [{metric: loudness/mean, direction: maximize}]
"""


def test_a_search_hands_its_plugins_on(tmp_path: Path) -> None:
    path = written(tmp_path / "a")
    path.write_text(SEARCH)
    search = load_search(path)
    experiment = search.experiment([("trial 0", search.default)], [0], search.targets)
    assert experiment.needed[-1] == "loudness" and "train" in experiment.needed
    assert "train/hum_loss" in {f"train/{name}" for name in experiment.spec.pipeline["train"].curves}
    moved = written(tmp_path / "b")
    moved.write_text(SEARCH)
    assert identity(load_search(moved)) == identity(search), "where a plugin lies is no matter"


def test_a_search_as_it_was_run_is_read_without_running_code(tmp_path: Path) -> None:
    path = written(tmp_path / "a")
    path.write_text(SEARCH)
    search, copy = load_search(path), tmp_path / "copy"
    for name, text in search.written.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    (copy / "lab.py").write_text("raise SystemExit('it was run')\n")
    (tmp_path / "a" / "lab.py").unlink()
    again = load_search(copy / "hums.yaml", recorded=True)
    assert again.default.model_dump(mode="json") == search.default.model_dump(mode="json")
    with pytest.raises(SpecError, match="it was run"):
        load_search(copy / "hums.yaml")


def test_what_lies_beside_a_copy_is_what_it_names(tmp_path: Path) -> None:
    """A linked plugin keeps its name, none at all is a list, and two files of one name are refused."""
    path = written(tmp_path / "a", yaml=YAML)
    (tmp_path / "store.py").write_text(PLUGIN)
    (tmp_path / "a" / "lab.py").unlink()
    (tmp_path / "a" / "lab.py").symlink_to(tmp_path / "store.py")
    assert load(path).written["lab.py"] == PLUGIN
    none = written(
        tmp_path / "b",
        yaml="experiment: none\ntitle: None\nprofile: tiny\nplugins: []\naxes: {optim.lr: [0.1, 0.2]}\n"
        "table: {caption: A, columns: [{title: P, metric: probe/accuracy}]}\n",
    )
    text = load(none, sets=["optim.weight_decay=0.1"]).written["none.yaml"]
    none.write_text(text)
    assert len(load(none).variants) == 2
    declared = "plugins: [../store.py]\nstages: {s: {command: python store.py, results: [a]}}"
    both = written(tmp_path / "c", yaml=YAML.replace("plugins: [lab.py]", declared))
    (tmp_path / "c" / "store.py").write_text("print(1)\n")
    with pytest.raises(SpecError, match="a file of a stage is called store.py too"):
        load(both)


def test_a_changed_file_is_read_whatever_its_time_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    plugin = PLUGIN + "# imported by this test alone\n"
    path = written(tmp_path, plugin)
    before = load(path).variants[0].runs[0]
    stamp = (tmp_path / "lab.py").stat()
    (tmp_path / "lab.py").write_text(plugin.replace("Field(8, ge=2)", "Field(9, ge=2)"))
    os.utime(tmp_path / "lab.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = load(path).variants[0].runs[0]
    assert (before.terms.hum.size, after.terms.hum.size) == (8, 9)  # type: ignore[attr-defined]


def test_the_board_knows_the_curves_of_terms(tmp_path: Path) -> None:
    run = load(written(tmp_path)).variants[1].runs[0]
    found = recorded_stages(json.loads(run.model_dump_json()))
    assert "hum_loss" in found["train"].curves and "mean_by_row" in found["loudness"].curves

"""A file that extends another."""

from __future__ import annotations

from pathlib import Path

import pytest

from star.cli.files import describes_search
from star.errors import SpecError
from star.report.published import published_of
from star.spec.keys import Keys, run_key
from star.spec.load import load
from star.spec.load_search import load_search
from tests.helpers import ROOT, TINY

TABLE3 = ROOT / "experiments" / "table3.yaml"
ALONE = TINY.read_text().replace("profile: tiny", f"profile: {ROOT / 'tests' / 'profiles' / 'tiny.yaml'}")
"""Readable from any folder."""
FIRST = "extends: {}\nexperiment: mine\n"


def child(folder: Path, text: str, parent: Path = TABLE3, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(FIRST.format(parent) + text)
    return path


def keys(path: Path) -> dict[str, str]:
    known = Keys()
    return {v.label: run_key(v.runs[0], known.of(v.runs[0], {"data": "x"})) for v in load(path).variants}


def test_what_it_does_not_say_is_as_it_was(tmp_path: Path) -> None:
    path = child(tmp_path, "")
    mine, theirs = load(path), load(TABLE3)
    assert keys(path) == keys(TABLE3) and mine.name == "mine" and mine.profile == theirs.profile
    assert mine.spec.model_copy(update={"experiment": "table3"}) == theirs.spec


def test_mappings_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    text = """base: {optim: {lr: 0.5}}
seeds: [4]
table: {caption: Mine, baseline: null}
rows: [{label: alone}]
claims: []
figures: []
"""
    mine = load(child(tmp_path, text))
    assert [(v.label, v.runs[0].optim.lr, v.runs[0].seed) for v in mine.variants] == [("alone", 0.5, 4)]
    assert mine.spec.table is not None and mine.spec.table.caption == "Mine" and mine.spec.table.published == "table3"


def test_null_takes_a_section_or_an_entry_away_and_is_a_value_in_base(tmp_path: Path) -> None:
    first = child(tmp_path, "metrics: {here: '[probe/accuracy] * 2', there: '[probe/accuracy]'}\n", name="first.yaml")
    text = "base: {tokenizer: {weights: null}}\nseeds: null\nclaims: null\nfigures: null\nmetrics: {here: null}\n"
    mine = load(child(tmp_path, text, parent=first))
    assert set(mine.spec.metrics) == {"there"} and mine.spec.table is not None
    assert (mine.spec.seeds, mine.spec.claims, mine.spec.figures) == ([0], [], [])
    assert mine.variants[0].runs[0].tokenizer.weights is None
    with pytest.raises(SpecError, match="clams: unknown key"):
        load(child(tmp_path, "clams: null\n"))


def test_rows_columns_and_claims_are_added(tmp_path: Path) -> None:
    text = """add:
  rows: [{label: l2, spec: {selfguided: {mim_distance: l2}}}]
  table: {columns: [{title: NLL, metric: train/val_nll}]}
  claims: [{id: mine, text: It helps, that: [{kind: greater, metric: probe/accuracy, row: l2, than: [baseline]}]}]
"""
    mine, theirs = load(child(tmp_path, text)), load(TABLE3)
    assert [v.label for v in mine.variants] == [*(v.label for v in theirs.variants), "l2"]
    assert mine.spec.table is not None and [column.title for column in mine.spec.table.columns][-2:] == [
        "Probe %",
        "NLL",
    ]
    assert [claim.id for claim in mine.spec.claims][-2:] == ["view-over-step", "mine"]


def test_a_mistake_is_named_in_the_file_that_holds_it(tmp_path: Path) -> None:
    parent = tmp_path / "parent.yaml"
    parent.write_text(ALONE.replace("[0.25, 0.5]", "[0.25, 1.5]"))
    with pytest.raises(SpecError, match=r"parent.yaml:5: selfguided.mask_ratio: 1.5"):
        load(child(tmp_path, "", parent))
    parent.write_text(ALONE)
    with pytest.raises(SpecError, match=r"mine.yaml:5: table.columns.3.metric: 'probe/acc"):
        load(child(tmp_path, "add:\n  table:\n    columns: [{title: X, metric: probe/acc}]\n", parent))
    with pytest.raises(SpecError, match=r"mine.yaml:3: optm: unknown key \(did you mean optim"):
        load(child(tmp_path, "base: {optm: {lr: 1}}\n", parent))


def test_a_chain_and_its_anchors(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    common, middle = (tmp_path / "shared" / name for name in ("common.yaml", "middle.yaml"))
    common.write_text("anchors: {short: &short {steps: 7, lr: 0.25}, label: &label from afar}\n")
    table = "table: {caption: c, columns: [{title: P, metric: probe/accuracy}]}"
    profile = ROOT / "tests" / "profiles" / "tiny.yaml"
    middle.write_text(f"extends: common.yaml\nprofile: {profile}\ntitle: *label\nbase: {{optim: *short}}\n{table}\n")
    path = child(tmp_path, "rows: [{label: *label, spec: {optim: *short, model: {dim: 32}}}]\n", middle)
    mine = load(path)
    (variant,) = mine.variants
    assert variant.label == mine.spec.title == "from afar"
    assert (variant.runs[0].optim.steps, variant.runs[0].model.dim) == (7, 32)
    path.write_text(path.read_text().replace("*label", "*lable"))
    with pytest.raises(SpecError, match="mine.yaml:3: not valid YAML: found undefined alias 'lable'"):
        load(path)


def test_commands_that_first_ask_what_a_file_is_know_its_anchors(tmp_path: Path) -> None:
    parent = tmp_path / "parent.yaml"
    parent.write_text("anchors: {rate: &rate 0.25}\n" + ALONE)
    path = child(tmp_path, "base: {optim: {lr: *rate}}\n", parent)
    assert not describes_search(path)


def test_an_anchor_of_its_own_wins(tmp_path: Path) -> None:
    parent = tmp_path / "parent.yaml"
    parent.write_text("anchors: {rate: &rate 0.25}\n" + ALONE)
    mine = load(child(tmp_path, "anchors: {rate: &rate 0.75}\nbase: {optim: {lr: *rate}}\n", parent))
    assert {run.optim.lr for v in mine.variants for run in v.runs} == {0.75}


def test_files_beside_the_other_file_are_found(tmp_path: Path) -> None:
    far = tmp_path / "far"
    (far / "profiles").mkdir(parents=True)
    (far / "profiles" / "own.yaml").write_text((ROOT / "tests" / "profiles" / "tiny.yaml").read_text())
    (far / "values.yaml").write_text("source: somebody\ntables: {}\n")
    own = TINY.read_text().replace("profile: tiny", "profile: own").replace(", published: fid", "")
    own = own.replace("  published: table4\n  match: {mask_ratio: selfguided.mask_ratio}\n", "")
    (far / "parent.yaml").write_text("published_values: values.yaml\n" + own)
    path = child(tmp_path, "", far / "parent.yaml")
    mine = load(path)
    assert mine.profile == "own" and published_of(mine).source == "somebody"
    assert load(path, profile="own").profile == "own"
    for name, text in mine.written.items():
        (tmp_path / "kept" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "kept" / name).write_text(text)
    kept = tmp_path / "kept" / "mine.yaml"
    assert kept.read_text().startswith("# mine.yaml with what it extends") and keys(kept) == keys(path)
    assert load(kept).spec == mine.spec.model_copy(update={"published_values": "values.yaml"})


def test_a_search_extends_a_search(tmp_path: Path) -> None:
    parent = ROOT / "experiments" / "search_alpha_beta_r.yaml"
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: {parent}\nsearch: mine\nspace: {{selfguided.mask_ratio: {{low: 0.2, high: 0.3}}}}\n")
    mine, theirs = load_search(path), load_search(parent)
    assert mine.name == "mine" and list(mine.spec.space) == list(theirs.spec.space)
    assert mine.spec.space["selfguided.mask_ratio"].high == 0.3 and mine.spec.objectives == theirs.spec.objectives


MISTAKES = [
    ("extends: none.yaml\nexperiment: a\n", "mine.yaml:1: extends: 'none.yaml' is no file"),
    ("experiment: a\nextends: mine.yaml\n", "mine.yaml:2: extends: the files extend each other in a circle: "),
    ("extends: other.yaml\nexperiment: a\n", "other.yaml:1: extends: the files extend each other in a circle: "),
    (f"extends: {TABLE3}\n", "mine.yaml:1: a file that extends another has a name of its own"),
    ("extends: [a, b]\nexperiment: a\n", "mine.yaml:1: extends: needs the path of a file"),
    ("experiment: a\nadd: {rows: []}\n", "mine.yaml:2: add: needs a file that `extends` another"),
    (
        f"extends: {TABLE3}\nexperiment: a\nadd: {{title: x}}\n",
        "mine.yaml:3: add.title: adds a list to a list; say title by itself",
    ),
    (f"extends: {TABLE3}\nexperiment: a\nadd: {{title: [x]}}\n", "mine.yaml:3: add.title: adds a list to a list"),
    (f"extends: {TABLE3}\nexperiment: a\nadd: 3\n", "mine.yaml:3: add: adds to lists"),
    (
        f"extends: {TABLE3}\nexperiment: a\nadd: {{rows: [{{label: MIM}}]}}\n",
        "mine.yaml:3: rows.6.label: the label 'MIM' stands twice",
    ),
]


@pytest.mark.parametrize("text, says", MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_mistake_is_told(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "other.yaml").write_text("extends: mine.yaml\n")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "mine.yaml")
    assert says in str(caught.value)


def test_a_pruners_null_is_a_value(tmp_path: Path) -> None:
    """As in `base`: the comparisons are at no other size, whatever the search that this one extends says."""
    profile = ROOT / "tests" / "profiles" / "tiny.yaml"
    parent = (ROOT / "tests" / "tiny_search.yaml").read_text().replace("profile: tiny", f"profile: {profile}")
    parent = parent.replace("reduction: 3", "reduction: 3, spec: {generate: {image_size: 14}}")
    (tmp_path / "parent.yaml").write_text(parent)
    child = "extends: parent.yaml\nsearch: other\npruner: {spec: {generate: {image_size: null}}}\n"
    (tmp_path / "child.yaml").write_text(child)
    assert load_search(tmp_path / "child.yaml").spec.pruner.spec == {"generate": {"image_size": None}}


def test_a_search_without_a_name_is_asked_for_a_searchs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: {ROOT / 'tests' / 'tiny_search.yaml'}\ntrials: 3\n")
    with pytest.raises(SpecError, match="give `search: NAME`"):
        load_search(path)


def test_the_other_file_may_be_at_home_and_its_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "first.yaml").write_text(ALONE)
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "mine.yaml"
    path.write_text(FIRST.format("~/first.yaml"))
    assert load(path).variants
    path.write_text(FIRST.format("~/none.yaml"))
    monkeypatch.chdir(path.parent)
    with pytest.raises(SpecError, match=f"is no file beside mine.yaml; give a path from {path.parent}"):
        load(Path("mine.yaml"))


def test_a_profile_beside_the_file_comes_before_one_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = (ROOT / "tests" / "profiles" / "tiny.yaml").read_text()
    for folder, steps in (("study", "31"), (".", "99")):
        (tmp_path / folder / "profiles").mkdir(parents=True)
        (tmp_path / folder / "profiles" / "mine.yaml").write_text(tiny.replace("steps: 30", f"steps: {steps}"))
    text = TINY.read_text().replace("profile: tiny", "profile: profiles/mine.yaml")
    (tmp_path / "study" / "e.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert load(Path("study/e.yaml")).variants[0].runs[0].optim.steps == 31


def test_a_user_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    path = child(tmp_path, "", Path("~nosuchuser/x.yaml"))
    with pytest.raises(SpecError, match="mine.yaml:1: extends: ~nosuchuser/x.yaml: there is no user of that name"):
        load(path)


def test_an_entry_called_spec_can_be_taken_away(tmp_path: Path) -> None:
    first = child(tmp_path, "metrics: {spec: '[probe/accuracy]', other: '[probe/accuracy]'}\n", name="first.yaml")
    assert set(load(child(tmp_path, "metrics: {spec: null}\n", parent=first)).spec.metrics) == {"other"}

"""Rows and axes together, and sweeps from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star.errors import SpecError
from star.spec.keys import Keys, run_key
from star.spec.load import load
from star.spec.rows import variant_from
from star.spec.run_base import value_at
from tests.helpers import ROOT

HEAD = """experiment: crossed
title: Rows and axes
profile: {profile}
table:
  caption: Rows and axes
  columns:
    - {{title: Row, label: true}}
    - {{title: Probe, metric: probe/accuracy}}
"""
ROWS = """rows:
  - {label: baseline, spec: {selfguided: {mim_weight: 0, contrastive_weight: 0}}}
  - {label: ST-AR}
  - {label: MIM, spec: {selfguided: {contrastive_weight: 0}}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "crossed.yaml"
    path.write_text(HEAD.format(profile=ROOT / "tests" / "profiles" / "tiny.yaml") + text)
    return path


def found(path: Path, fields: list[str], **options: Any) -> dict[str, list[Any]]:
    return {v.label: [value_at(v.runs[0], field) for field in fields] for v in load(path, **options).variants}


def keys(path: Path, **options: Any) -> list[str]:
    known = Keys()
    return [run_key(run, known.of(run, {"data": "x"})) for v in load(path, **options).variants for run in v.runs]


def test_every_row_stands_at_every_point_of_the_axes(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS + "axes:\n  optim.lr: [0.1, 0.2]\n  optim.weight_decay: [0, 0.1]\n")
    assert found(path, ["optim.lr", "optim.weight_decay", "selfguided.contrastive_weight"]) == {
        f"{label}, lr={lr}, weight_decay={decay}": [lr, float(decay), weight]
        for label, weight in (("baseline", 0), ("ST-AR", 0.5), ("MIM", 0))
        for lr in (0.1, 0.2)
        for decay in (0, 0.1)
    }


def test_a_row_that_an_axis_does_not_touch_stands_once(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS + "axes:\n  selfguided.mask_ratio: [0.25, 0.5]\n  optim.lr: [0.1, 0.2]\n")
    experiment = load(path)
    assert [variant.label for variant in experiment.variants] == [
        *("baseline, lr=0.1", "baseline, lr=0.2"),
        *(
            f"{row}, mask_ratio={ratio}, lr={lr}"
            for row in ("ST-AR", "MIM")
            for ratio in (0.25, 0.5)
            for lr in (0.1, 0.2)
        ),
    ]
    assert experiment.notes == (
        "baseline: stands once for all values of selfguided.mask_ratio, which changes nothing of it",
    )
    first, *_, last = experiment.variants
    assert (
        not first.is_varied("selfguided.mask_ratio") and first.is_varied("optim.lr") and first.is_varied("optim.steps")
    )
    assert last.is_varied("selfguided.mask_ratio")


def test_a_quoted_row_stands_once(tmp_path: Path) -> None:
    rows = ROWS + "  - {label: theirs, paper_only: true}\n"
    labels = [v.label for v in load(write(tmp_path, rows + "axes: {optim.lr: [0.1, 0.2]}\n")).variants]
    assert len(labels) == 7 and labels[-1] == "theirs"


def test_two_axes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path, "axes: {tokenizer.steps: [3, 4], optim.steps: [5]}\n")
    assert [v.label for v in load(path).variants] == [f"tokenizer.steps={n}, optim.steps=5" for n in (3, 4)]


def test_one_axis_at_a_time(tmp_path: Path) -> None:
    """Each row around the base's values; one that an axis does not touch stands once, at the base's value of it."""
    axes = "one_at_a_time: true\naxes:\n  selfguided.mask_ratio: [0.1, 0.25]\n  optim.lr: [0.05, 0.1, 0.2]\n"
    paths = ["selfguided.mask_ratio", "optim.lr"]
    path = write(tmp_path, ROWS + axes + "base: {optim: {lr: 0.1}}\n")
    made = found(path, paths)
    assert [list(map(float, values)) for label, values in made.items() if label.startswith("ST-AR")] == [
        [0.1, 0.1],
        [0.25, 0.05],
        [0.25, 0.1],
        [0.25, 0.2],
    ]
    assert [label for label in made if label.startswith("baseline")] == [f"baseline, lr={n}" for n in (0.05, 0.1, 0.2)]
    alone = write(tmp_path, axes + "base: {optim: {lr: 0.1}}\n")
    assert len(load(alone).variants) == 4
    path = write(tmp_path, ROWS + axes + "base: {optim: {lr: 0.1}}\n")
    swept = load(path, sets=["optim.lr=[0.1, 0.4]"])
    assert len(swept.variants) == 2 + 3 + 3
    assert swept.notes[0].startswith("each row is run with every value of optim.lr, the other axes at the value")


def test_many_axes_are_not_multiplied_out(tmp_path: Path) -> None:
    fields = ["lr", "weight_decay", "beta1", "beta2", "grad_clip"]
    axes = "".join(f"  optim.{name}: {[n / 1000 for n in range(30)]}\n" for name in fields[1:])
    base = "base: {optim: {" + ", ".join(f"{name}: 0.001" for name in fields) + "}}\n"
    assert len(load(write(tmp_path, f"one_at_a_time: true\naxes:\n{axes}{base}")).variants) == 1 + 4 * 29


@pytest.mark.parametrize("axes", ["optim.lr: [0.1, 0.2]", "probe.base_lrs: [[0.1, 0.3], [0.1, 0.2]]"])
def test_a_record_knows_rows_and_axes_from_labels(tmp_path: Path, axes: str) -> None:
    """A row's own label may look like a value of an axis, or begin as another's does."""
    rows = ROWS + "  - {label: 'ST-AR, lr=slow', spec: {optim: {beta1: 0.8}}}\n"
    experiment = load(write(tmp_path, f"{rows}axes:\n  {axes}\n"))
    assert len(experiment.variants) == 8
    for variant in experiment.variants:
        again = variant_from(variant.row, variant.runs, experiment.spec)
        assert (again.label, again.own_label, again.places) == (variant.label, variant.own_label, variant.places)
        assert again.own_label in ("baseline", "ST-AR", "MIM", "ST-AR, lr=slow") and len(again.places) == 1


MISTAKES = [
    (
        "axes: {selfguided.contrastive_weight: [0.1, 0.2]}\n",
        "crossed.yaml:13: axes.selfguided.contrastive_weight: the row 'baseline' sets it too",
    ),
    ("axes: {resources.checkpoint_every: [3, 4]}\n", "axes.resources.checkpoint_every: changes nothing"),
    ("  - {label: again}\naxes: {optim.lr: [0.1]}\n", "'again, lr=0.1' is the same run as 'ST-AR, lr=0.1'"),
    ("axes: {optim.lr: []}\n", "axes.optim.lr: has no values"),
]


@pytest.mark.parametrize("text, says", MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_mistake_of_rows_and_axes_is_told(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(write(tmp_path, ROWS + text))
    assert says in str(caught.value)


def test_neither_rows_nor_axes_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="rows: give rows, axes, or both"):
        load(write(tmp_path, ""))


def test_a_list_for_a_number_is_a_sweep(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    swept = keys(path, sets=["optim.lr=[1e-1, 0.2]", "optim.weight_decay=0.3"])
    written = write(tmp_path, ROWS + "base: {optim: {weight_decay: 0.3}}\naxes: {optim.lr: [1e-1, 0.2]}\n")
    assert swept == keys(written) and len(swept) == 6


def test_a_list_for_a_list_is_a_value_and_lists_for_it_are_a_sweep(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    assert set(map(str, found(path, ["probe.base_lrs"], sets=["probe.base_lrs=[0.5, 0.7]"]).values())) == {
        "[[0.5, 0.7]]"
    }
    swept = found(path, ["probe.base_lrs"], sets=["probe.base_lrs=[[0.5], [0.7]]"])
    assert len(swept) == 6 and swept["MIM, base_lrs=[0.7]"] == [[0.7]]


def test_a_sweep_takes_the_place_of_an_axis(tmp_path: Path) -> None:
    path = write(tmp_path, "axes: {optim.lr: [0.1, 0.2]}\n")
    assert list(found(path, [], sets=["optim.lr=[0.4,0.5,0.6]"])) == ["lr=0.4", "lr=0.5", "lr=0.6"]
    with pytest.raises(SpecError, match=r"--set optim.lr=0.4: optim.lr is what the rows vary \(it is set at .*:9\)"):
        load(path, sets=["optim.lr=0.4"])


def test_a_sweep_of_what_a_row_sets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"--set selfguided.contrastive_weight=\[.*the row 'baseline' sets it too, at .*:10"
    ):
        load(write(tmp_path, ROWS), sets=["selfguided.contrastive_weight=[0.1,0.2]"])


def test_a_sweep_without_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"--set optim.lr=\[\]: axes.optim.lr: has no values"):
        load(write(tmp_path, ROWS), sets=["optim.lr=[]"])


def test_what_is_about_the_rows_of_the_file_is_left_out_of_a_sweep() -> None:
    experiment = load(ROOT / "experiments" / "table3.yaml", sets=["optim.lr=[0.001, 0.002]"], seeds=[0])
    assert not experiment.spec.claims and experiment.spec.table is not None and experiment.spec.table.baseline is None
    assert [figure.name for figure in experiment.spec.figures] == ["training"]
    assert experiment.notes == (
        "each row is run with every value of optim.lr; left out, for they are about the file's own rows: its claims, table.baseline, "
        "the figure samples",
    )


def test_a_sweep_is_a_column_of_the_table() -> None:
    sets = ["optim.lr=[0.001, 0.002]", "optim.weight_decay=[0, 0.1]", "selfguided.mask_ratio=[0.1, 0.2]"]
    table = load(ROOT / "experiments" / "table4.yaml", sets=sets).spec.table
    assert table is not None
    assert [column.spec for column in table.columns][:4] == [
        "selfguided.mask_ratio",
        "optim.lr",
        "optim.weight_decay",
        None,
    ]
    with_labels = load(ROOT / "experiments" / "table3.yaml", sets=sets[:1]).spec.table
    assert with_labels is not None and "lr" not in [column.title for column in with_labels.columns]


def test_a_mistake_beside_a_sweep_is_named_where_it_is(tmp_path: Path) -> None:
    text = (ROOT / "experiments" / "table4.yaml").read_text().replace("probe/accuracy", "probe/acuracy")
    path = tmp_path / "wrong.yaml"
    path.write_text(
        text.replace("title: Table 4", f"profile: {ROOT / 'experiments' / 'profiles' / 'fashion.yaml'}\ntitle: Table 4")
    )
    line = 1 + next(i for i, text in enumerate(path.read_text().splitlines()) if "acuracy" in text)
    with pytest.raises(SpecError, match=rf"wrong.yaml:{line}: table.columns.5.metric"):
        load(path, sets=["optim.lr=[0.001, 0.002]"])


@given(
    st.lists(st.floats(0.01, 1, allow_nan=False), min_size=1, max_size=3, unique=True),
    st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
    st.integers(1, 3),
)
def test_as_many_runs_as_points(
    tmp_path_factory: pytest.TempPathFactory, rates: list[float], steps: list[int], rows: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    written = "".join(f"  - {{label: r{i}, spec: {{optim: {{weight_decay: 0.{i + 1}}}}}}}\n" for i in range(rows))
    path = write(folder, f"rows:\n{written}axes:\n  optim.lr: {rates}\n  optim.warmup_steps: {steps}\n")
    points = {tuple(v) for v in found(path, ["optim.weight_decay", "optim.lr", "optim.warmup_steps"]).values()}
    assert points == {((i + 1) / 10, rate, step) for i in range(rows) for rate in rates for step in steps}
    assert len(set(keys(path))) == rows * len(rates) * len(steps)

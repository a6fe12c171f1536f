"""Curves: what the tracker holds of them, missing runs and missing steps included; and a distance's own name."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace
from typing import Any

import pytest

from star.errors import SpecError
from star.report.curves import Curve, build_curves, comma_separated, markdown
from star.report.table import _named
from star.spec.experiment import CurveSpec
from star.spec.load import load
from tests.helpers import ROOT, TINY


class Held:
    """A tracker that holds two curves."""

    def curve(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        assert metric == "probe/accuracy_by_position"
        return {"one": [(1, 0.5), (2, 0.7)], "two": [(1, 0.6)]}[run_id]


@pytest.fixture
def curve() -> Curve:
    experiment: Any = SimpleNamespace(
        spec=SimpleNamespace(
            curves=[CurveSpec(title="Probe", metric="probe/accuracy_by_position", scale=100, digits=1)]
        ),
        variants=[SimpleNamespace(label="a|b"), SimpleNamespace(label="c")],
    )
    runs: Any = [SimpleNamespace(key=key, label=label) for key, label in (("k1", "a|b"), ("k2", "a|b"), ("k3", "c"))]
    tracker: Any = Held()
    (found,) = build_curves(experiment, runs, {"k1": "one", "k2": "two"}, tracker)
    return found


def test_seeds_of_a_row_belong_together(curve: Curve) -> None:
    assert curve.steps == [1, 2] and curve.step_name == "position"
    assert curve.rows == {"a|b": {1: [50.0, 60.0], 2: [70.0]}, "c": {}}
    assert markdown([curve])[1:] == [
        "Probe:",
        "",
        "| position | 1 | 2 |",
        "|---|---:|---:|",
        "| a\\|b | 55.0 ± 7.1 | 70.0 |",
        "| c |  |  |",
    ]
    rows = list(csv.DictReader(io.StringIO(comma_separated([curve]))))
    assert [(row["row"], row["step"], row["mean"], row["n"]) for row in rows] == [
        ("a|b", "1", "55.0", "2"),
        ("a|b", "2", "70.0", "1"),
    ]


@pytest.mark.parametrize(
    "curves, message",
    [
        ("curves: [{title: x, metric: probe/acuracy_by_position}]", "is no curve.*probe/accuracy_by_position"),
        ("curves: [{title: x, metric: attention/distance_by_layer}]", "needs the stage attention; add it to targets"),
    ],
)
def test_a_wrong_curve_is_refused(curves: str, message: str, tmp_path: Any) -> None:
    (tmp_path / "profiles").symlink_to(TINY.parent / "profiles")
    (tmp_path / "tiny.yaml").write_text(TINY.read_text() + f"{curves}\n")
    with pytest.raises(SpecError, match=message):
        load(tmp_path / "tiny.yaml")


def test_a_distance_is_fid_only_on_inceptions_features() -> None:
    path = ROOT / "experiments" / "table4.yaml"
    for profile, expected in (("fashion", ["FD", "sFD", "IS"]), ("imagenet256", ["FID", "sFID", "IS"])):
        experiment = load(path, profile)
        columns = [_named(column, experiment) for column in experiment.spec.table.columns]
        assert [column.title for column in columns if (column.metric or "").startswith("score/")] == expected

"""Tables in which no row differs from another, in the shapes of the committed experiments: what is decided there is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from star.report.contrasts import UNDECIDED
from star.report.evidence import Evidence
from star.report.looks import judge_all
from star.report.table import build_table
from star.rundir import Home
from star.scheduler.plan import Plan, make_plan
from star.spec.load import load
from tests.helpers import ROOT
from tests.report.stored import Stored

METRICS = {
    "table3": ("probe/accuracy", "score/efficientnet-lite0/frechet_distance"),
    "table4": ("score/efficientnet-lite0/frechet_distance", "score/efficientnet-lite0/spatial_frechet_distance"),
    "table5": ("score/efficientnet-lite0/frechet_distance", "score/efficientnet-lite0/inception_score"),
    "table6": ("score/efficientnet-lite0/frechet_distance",),
}
"""Experiments with claims -> the metrics that these read."""
COMPARED = {"star_vs_baseline": ("score/efficientnet-lite0/frechet_distance", "probe/accuracy", "train/val_nll")}
"""An experiment without claims, whose table compares all rows with two baselines."""
TABLES = 1000


@pytest.fixture(scope="module")
def plans(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Plan]:
    home = tmp_path_factory.mktemp("null")
    (home / "data").mkdir()
    (home / "data" / "fashion-mnist").symlink_to(images)
    found = {}
    for name in METRICS | COMPARED:
        experiment = load(ROOT / "experiments" / f"{name}.yaml", seeds=[0, 1, 2])
        found[name] = make_plan(experiment, Home(home), None)
    return found


def null_table(plan: Plan, metrics: tuple[str, ...], rng: np.random.Generator) -> Evidence:
    """Random numbers of one mean; seeds shared by half of the tables; rows that spread alike, or up to 3 times as much."""
    labels = list(dict.fromkeys(run.label for run in plan.runs))
    shared = rng.choice([0.0, 0.7])
    spreads = dict(zip(labels, rng.permutation(np.geomspace(1, rng.choice([1.0, 3.0]), len(labels))), strict=True))
    stored = Stored()
    for metric in metrics:
        of_seed = rng.normal(size=3)
        for run in plan.runs:
            chance = shared * of_seed[run.seed] + np.sqrt(1 - shared**2) * rng.normal()
            stored.metrics.setdefault(run.key, {})[metric] = 100 + float(spreads[run.label] * chance)
    return Evidence(plan, None, stored)


def with_interval(plan: Plan, method: str) -> Plan:
    spec = plan.experiment.spec.model_copy(update={"interval": method})
    return replace(plan, experiment=replace(plan.experiment, spec=spec))


@pytest.mark.parametrize("method", ["welch", "paired", "block"])
def test_at_most_one_verdict_of_twenty_is_wrong_where_nothing_differs(method: str, plans: Mapping[str, Plan]) -> None:
    rng, wrong, verdicts, bold, columns = np.random.default_rng(0), 0, 0, 0, 0
    names = [list(METRICS)[i % len(METRICS)] for i in range(TABLES)] + list(COMPARED) * (TABLES // 4)
    for name in names:
        evidence = null_table(with_interval(plans[name], method), (METRICS | COMPARED)[name], rng)
        judged = judge_all(evidence)
        verdicts += len(judged)
        wrong += sum(one.verdict != UNDECIDED for one in judged)
        table = build_table(evidence)
        for j, column in enumerate(table.columns):
            if table.spec.baselines and column.metric is not None and table.rows[0].cells[j].values:
                columns += 1
                found = [one for row in table.rows for one in row.cells[j].differences.values()]
                bold += any((one.p or 1.0) < 0.05 for one in found)
    assert wrong / verdicts <= 0.05, f"{wrong} of {verdicts} verdicts"
    assert columns > 200 and bold <= 0.05 * columns + 2 * np.sqrt(0.05 * 0.95 * columns), f"{bold} of {columns} columns"

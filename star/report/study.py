"""A search's report: what was found, whether it beats the default beyond noise, what mattered, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial

from star.ledger.store import Ledger
from star.report.evidence import Evidence
from star.report.importance import Importance, importances
from star.report.stats import Interval, Sample, contrast
from star.report.write import Report, build
from star.rundir import Home
from star.scheduler.plan import make_plan
from star.search.best import best, short
from star.search.study import Study
from star.spec.points import Search
from star.spec.reporting import Column, TableSpec
from star.tracked import Reader

SHOWN = 10
"""Trials in the table of the best."""
DEFAULT = "trial 0"


@dataclass
class Verdict:
    """The best repeated trial against the default, on seeds that had no part in choosing it."""

    label: str
    mean: float
    default: float
    difference: Interval
    """In the objective's own direction: positive is better."""

    @property
    def held(self) -> bool:
        """Whether it is better beyond the noise of seeds."""
        return self.difference.low is not None and self.difference.low > 0


@dataclass
class StudyReport:
    """What is known of a study."""

    search: Search
    study: Study
    home: Home
    ledger: Ledger | None
    reader: Reader
    mlflow_ui: str
    pictures: dict[str, Path] = field(default_factory=dict)
    """Figure -> its PNG."""

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        return self.study.trials()

    @cached_property
    def top(self) -> Report:
        """The default and the best trials, each on the trials' own seeds."""
        chosen = best(self.study, SHOWN)
        what = f"the {len(chosen) - 1} best trials"
        if len(self.search.spec.objectives) > 1:
            what = "the trials that no other beats in every objective"
        return self._report(chosen, self.search.spec.seeds, f"The default and {what}")

    @cached_property
    def confirmed(self) -> Report | None:
        """The default and the best trials on fresh seeds; None where the search repeats none."""
        confirm = self.search.spec.confirm
        if confirm is None or not self.study.complete():
            return None
        return self._report(best(self.study, confirm.top), confirm.seeds, "Repeated on seeds that did not choose them")

    @cached_property
    def importances(self) -> dict[str, list[Importance]]:
        """Where it was measured -> each parameter's share in what varies."""
        return importances(self.study)

    @cached_property
    def verdict(self) -> Verdict | None:
        """None while nothing was repeated on all its seeds."""
        if self.confirmed is None:
            return None
        objective, rows = self.search.spec.objectives[0], {}
        for variant in self.confirmed.experiment.variants:
            numbers = self.confirmed.evidence.numbers(variant.label, objective.metric)
            rows[variant.label] = [] if numbers.missing else numbers.values
        default = rows.pop(DEFAULT, [])
        rows = {label: values for label, values in rows.items() if values}
        if not rows or not default:
            return None
        sign = 1.0 if objective.direction == "maximize" else -1.0
        label = max(rows, key=lambda one: sign * fmean(rows[one]))
        samples = [Sample(sign * objective.scale, rows[label]), Sample(-sign * objective.scale, default)]
        # the best of several is picked on these seeds too: each comparison gets its share of the error
        held = contrast(samples, 1 - 0.05 / len(rows))
        scale = objective.scale
        return Verdict(label, scale * fmean(rows[label]), scale * fmean(default), held)

    @property
    def folder(self) -> str:
        """Below the folder of reports, with a slash at the end."""
        return f"{self.search.name}/{self.search.profile}/"

    def _report(self, chosen: Sequence[tuple[int, dict[str, object]]], seeds: Sequence[int], caption: str) -> Report:
        rows = [(f"trial {number}", self.search.run(point)) for number, point in chosen]
        columns = [Column(title="Trial", label=True)]
        columns += [Column(title=_title(name), cell=name) for name in self.search.spec.space]
        cells = {f"trial {number}": cells_of(point) for number, point in chosen}
        for objective in self.search.spec.objectives:
            better = "higher" if objective.direction == "maximize" else "lower"
            title = objective.title or objective.metric
            shown = {"scale": objective.scale, "digits": objective.digits}
            columns.append(Column(title=title, metric=objective.metric, better=better, **shown))  # type: ignore[arg-type]
        has_default = bool(chosen) and chosen[0][0] == 0
        baseline = DEFAULT if has_default and len(seeds) > 1 else None
        note = "Trial 0 is the default." if has_default else None
        table = TableSpec(caption=f"{self.search.spec.title}: {caption}", columns=columns, baseline=baseline, note=note)
        about = {"table": table, "metrics": {}, "figures": [], "claims": [], "reference": None, "title": caption}
        experiment = self.search.experiment(rows, seeds, self.search.targets, cells, **about)
        plan = make_plan(experiment, self.home, self.ledger)
        return build(Evidence(plan, self.ledger, self.reader), self.mlflow_ui)


def cells_of(point: Mapping[str, Any]) -> dict[str, str | int | float]:
    """A point as a row of a table shows it."""
    return {name: short(value) for name, value in point.items()}


def _title(name: str) -> str:
    return name.rsplit(".", 1)[-1].replace("_", " ")

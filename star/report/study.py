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
from star.search.best import DEFAULT, best, short
from star.search.study import Study
from star.spec.points import Search
from star.spec.reporting import Column, TableSpec
from star.tracking.reader import Reader

SHOWN = 10
"""Trials in the table of the best."""
DEFAULT_ROW = f"trial {DEFAULT}"


@dataclass
class Verdict:
    """A repeated trial against the default, on seeds that had no part in choosing it."""

    label: str
    mean: float
    default: float
    difference: Interval
    """In the objective's own direction: positive is better. At 95% over all comparisons together."""

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
        what = {0: "nothing yet", 1: "the best trial"}.get(len(chosen) - 1, f"the {len(chosen) - 1} best trials")
        if len(self.search.spec.objectives) > 1:
            what = "the trials that no other beats in every objective"
        report = self._report(chosen, self.search.spec.seeds, f"The default and {what}")
        assert report.table is not None
        report.table.notes.append("These trials were chosen by these seeds: what lies between them is partly chance.")
        return report

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
    def verdicts(self) -> list[Verdict]:
        """Of each repeated trial that has all its seeds, the best first; none while the default lacks some."""
        if self.confirmed is None:
            return []
        objective, rows = self.search.spec.objectives[0], {}
        for variant in self.confirmed.experiment.variants:
            numbers = self.confirmed.evidence.numbers(variant.label, objective.metric)
            rows[variant.label] = [] if numbers.missing else numbers.values
        default = rows.pop(DEFAULT_ROW, [])
        rows = {label: values for label, values in rows.items() if values and default}
        sign, scale, found = 1.0 if objective.direction == "maximize" else -1.0, objective.scale, []
        for label, values in rows.items():
            samples = [Sample(sign * scale, values), Sample(-sign * scale, default)]
            # the best of several is picked on these seeds too: each comparison gets its share of the error
            held = contrast(samples, 1 - 0.05 / len(rows))
            found.append(Verdict(label, scale * fmean(values), scale * fmean(default), held))
        return sorted(found, key=lambda one: -one.difference.estimate)

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
        note = "Trial 0 is the default." if chosen and chosen[0][0] == DEFAULT else None
        table = TableSpec(caption=f"{self.search.spec.title}: {caption}", columns=columns, note=note)
        about = {"table": table, "metrics": {}, "figures": [], "claims": [], "published_values": None, "title": caption}
        experiment = self.search.experiment(rows, seeds, self.search.targets, cells, **about)
        plan = make_plan(experiment, self.home, self.ledger)
        return build(Evidence(plan, self.ledger, self.reader), self.mlflow_ui)


def cells_of(point: Mapping[str, Any]) -> dict[str, str | int | float]:
    """A point as a row of a table shows it."""
    return {name: short(value) for name, value in point.items()}


def _title(name: str) -> str:
    return name.rsplit(".", 1)[-1].replace("_", " ")

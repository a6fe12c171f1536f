"""A search's report: the best trials, whether they beat the default beyond noise, parameter importances, and cost."""

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
"""Most trials in the table of the best trials."""
DEFAULT_ROW = f"trial {DEFAULT}"


@dataclass
class Verdict:
    """A repeated trial compared with the default, on seeds that were not used to choose it."""

    label: str
    mean: float
    default: float
    difference: Interval
    """Difference to the default; positive is better. Its level is 95% over all comparisons together."""

    @property
    def held(self) -> bool:
        """Whether the trial is better than the default beyond the noise of seeds."""
        return self.difference.low is not None and self.difference.low > 0


@dataclass
class StudyReport:
    """The data of a study's report."""

    search: Search
    study: Study
    home: Home
    ledger: Ledger | None
    reader: Reader
    mlflow_ui: str
    pictures: dict[str, Path] = field(default_factory=dict)
    """Figure name -> path of its PNG."""

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        return self.study.trials()

    @cached_property
    def top(self) -> Report:
        """Report on the default and the best trials, on the seeds by which they were chosen."""
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
        """The default and the best trials on fresh seeds; None if the search repeats none or no trial is complete."""
        confirm = self.search.spec.confirm
        if confirm is None or not self.study.complete():
            return None
        return self._report(best(self.study, confirm.top), confirm.seeds, "Repeated on seeds that did not choose them")

    @cached_property
    def importances(self) -> dict[str, list[Importance]]:
        """Where the objective was measured -> each parameter's share of its variance."""
        return importances(self.study)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """Verdicts on the repeated trials that have all their seeds, best first; empty if the default lacks a seed."""
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
            # the best of several is picked on these seeds too: Bonferroni correction over all of them, done or not
            held = contrast(samples, 1 - 0.05 / self.repeated)
            found.append(Verdict(label, scale * fmean(values), scale * fmean(default), held))
        return sorted(found, key=lambda one: -one.difference.estimate)

    @property
    def repeated(self) -> int:
        """Number of trials that are repeated beside the default, done or not."""
        return len(self.confirmed.experiment.variants) - 1 if self.confirmed is not None else 0

    @property
    def folder(self) -> str:
        """Path of the report's folder below the folder of reports, with a slash at the end."""
        return f"{self.search.name}/{self.search.profile}/"

    def _title(self, name: str) -> str:
        """What the table calls a parameter: its last part in words, or its whole path if that is taken."""
        title, taken = _words(name), {_words(other) for other in self.search.spec.space if other != name} | {"Trial"}
        return name if title in taken else title

    def _report(self, chosen: Sequence[tuple[int, dict[str, object]]], seeds: Sequence[int], caption: str) -> Report:
        rows = [(f"trial {number}", self.search.run(point)) for number, point in chosen]
        columns = [Column(title="Trial", label=True)]
        columns += [Column(title=self._title(name), cell=name) for name in self.search.spec.space]
        cells = {f"trial {number}": cells_of(point) for number, point in chosen}
        for objective in self.search.spec.objectives:
            better = "higher" if objective.direction == "maximize" else "lower"
            title = objective.title or objective.metric
            if title in {column.title for column in columns}:
                title = objective.metric
            shown = {"scale": objective.scale, "digits": objective.digits}
            columns.append(Column(title=title, metric=objective.metric, better=better, **shown))  # type: ignore[arg-type]
        note = "Trial 0 is the default." if chosen and chosen[0][0] == DEFAULT else None
        table = TableSpec(caption=f"{self.search.spec.title}: {caption}", columns=columns, note=note)
        about = {
            "table": table,
            "metrics": {},
            "against": {},
            "figures": [],
            "claims": [],
            "published_values": None,
            "title": caption,
        }
        experiment = self.search.experiment(rows, seeds, self.search.targets, cells, **about)
        plan = make_plan(experiment, self.home, self.ledger)
        return build(Evidence(plan, self.ledger, self.reader), self.mlflow_ui)


def _words(name: str) -> str:
    return name.rsplit(".", 1)[-1].replace("_", " ")


def cells_of(point: Mapping[str, Any]) -> dict[str, str | int | float]:
    """A point's cells in a table: parameter -> short text of its value."""
    return {name: short(value) for name, value in point.items()}

"""What is tracked of an experiment: each row's numbers by seed, their provenance, and why others are missing."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from copy import copy
from functools import cache, cached_property
from typing import Any

from star.ledger.states import DONE, QUEUED, Job
from star.ledger.store import Ledger
from star.report.against import samples_against
from star.report.block import Block
from star.report.samples import Samples, Source
from star.scheduler.plan import Plan, PlannedRun
from star.spec.graph import file_of, needed_of
from star.spec.measure import FOREIGN, Formula, Measure, curve_value, parse_formula, parse_measure
from star.spec.reporting import FigureSpec
from star.tracking.reader import Reader, TrackedRun
from star.tracking.writer import OF_JOB

IDLE = "no such stage"
"""State of a number that cannot exist: the run has no such stage, or the finished stage has no such number."""
Curves = dict[int, dict[int, float]]
"""Curves of one row: seed -> step -> value."""


@cache
def _parsed(text: str) -> dict[str, object]:
    """Parse JSON; cached because runs share most of their stages, and so these texts."""
    found: dict[str, object] = json.loads(text)
    return found


class Evidence:
    """Everything that a report needs of an experiment, read in bulk and once."""

    def __init__(self, plan: Plan, ledger: Ledger | None, reader: Reader, rejudged: Sequence[str] = ()) -> None:
        self.plan, self.experiment, self.reader = plan, plan.experiment, reader
        self.rejudged = rejudged
        """Sentences on what was changed of claims and intervals after there were results."""
        known = ledger.runs.tracking_ids([run.key for run in plan.runs]) if ledger else {}
        self.tracked = reader.runs({run.key: known.get(run.key) for run in plan.runs})
        self._ledger = ledger
        self._curves: dict[str, dict[str, dict[int, float]]] = {}
        self._numbers: dict[tuple[str, str], Samples] = {}
        self._blocks: dict[tuple[str, frozenset[str]], Block] = {}
        self.rankings: dict[str, Any] = {}
        """What `star.report.ranking` found, by the figure's name."""
        self._formulas = {
            name: parse_formula(text, self.experiment.spec.pipeline)
            for name, text in self.experiment.spec.metrics.items()
        }
        self._by_label: dict[str, dict[int, PlannedRun]] = {}
        for run in plan.runs:  # a seed counts once, even if the plan holds it several times
            self._by_label.setdefault(run.label, {}).setdefault(run.seed, run)

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """The experiment's jobs in the ledger, by key."""
        return self._ledger.jobs.of(self.plan.jobs) if self._ledger else {}

    @cached_property
    def delivered(self) -> dict[str, dict[str, tuple[int, bool]]]:
        """How much of each run's jobs the tracker holds: run -> job -> (offset in its metrics, whether that is all)."""
        return self._ledger.runs.tracked([run.key for run in self.plan.runs]) if self._ledger else {}

    def up_to(self, seeds: Collection[int]) -> Evidence:
        """What was known with these seeds alone; rows without a seed stay."""
        found = copy(self)
        found._numbers, found._blocks, found.rankings = {}, {}, {}
        found._by_label = {
            label: {seed: run for seed, run in runs.items() if seed in seeds or not run.spec.has_seed}
            for label, runs in self._by_label.items()
        }
        return found

    def runs(self, label: str) -> list[PlannedRun]:
        """The runs of a row, one per seed; empty if the row is only quoted."""
        return list(self._by_label.get(label, {}).values())

    def numbers(self, label: str, metric: str) -> Samples:
        """A row's numbers by seed, of a tracked result, a point of a curve, or one of the experiment's formulas."""
        if (label, metric) not in self._numbers:
            self._numbers[label, metric] = self._samples(label, metric)
        return self._numbers[label, metric]

    def _samples(self, label: str, metric: str) -> Samples:
        if metric in self.experiment.spec.against:
            return samples_against(self, label, metric, self.experiment.spec.against[metric])
        formula = self._formulas.get(metric)
        found, seen, idle = Samples(), set(), []
        for run in self.runs(label):
            source = (
                self._formula(run, metric, formula)
                if formula
                else self._one(run, parse_measure(metric, self.experiment.spec.pipeline))
            )
            if source == IDLE:
                idle.append(run.seed)
            elif isinstance(source, str):
                found.missing[run.seed] = source
            elif (
                not source.stages or tuple(source.stages.values()) not in seen
            ):  # seeds may share a stage: one measurement
                seen.add(tuple(source.stages.values()))
                found.sources.append(source)
        found.idle = bool(idle)
        if found.sources:  # other seeds of the row have it: this one ended early, or did not report it
            found.missing |= dict.fromkeys(
                idle, "no such step" if "@" in (formula.text if formula else metric) else "no such number"
            )
        return found

    def stages_of(self, metric: str) -> list[str]:
        """The stages whose numbers a metric is made of."""
        spec = self.experiment.spec
        if metric in spec.against:
            return self.stages_of(spec.against[metric].value)
        formula = self._formulas.get(metric)
        measures = formula.measures.values() if formula else [parse_measure(metric, spec.pipeline)]
        return list(dict.fromkeys(measure.stage for measure in measures if measure.stage is not None))

    def block(self, label: str, metric: str) -> Block:
        """The values of a metric in all rows whose images, if any, were scored as those of the row `label`."""
        wanted = self.numbers(label, metric).scorings
        key = (metric, frozenset(wanted))
        if key not in self._blocks:
            rows = {row: self.numbers(row, metric) for row in self._by_label}
            values = {
                row: dict(zip(one.seeds, one.values, strict=True))
                for row, one in rows.items()
                if one.values and one.scorings == wanted
            }
            self._blocks[key] = Block(values)
        return self._blocks[key]

    def curve(self, label: str, metric: str, unfinished: bool = False, finite: bool = True) -> Curves:
        """A row's curves, one for each job; seeds without one are left out.

        Args:
            unfinished: whether to include jobs that have not ended.
            finite: whether to leave out values that are not finite, which nothing can draw.
        """
        stage, found, seen = metric.split("/")[0], {}, set()
        for run in self.runs(label):
            tracked = self.tracked.get(run.key)
            key = run.stages.get(stage)
            if tracked is None or key in seen or self._foreign(run, stage):
                continue
            points = self._points(tracked, metric) if unfinished or self.provenance(run, stage) else {}
            if finite:
                points = {step: value for step, value in points.items() if math.isfinite(value)}
            if points:
                seen.add(key)
                found[run.seed] = points
        return found

    def _foreign(self, run: PlannedRun, stage: str) -> bool:
        """Whether what MLflow holds of a stage is from another job than the plan's."""
        return self.tracked[run.key].tags.get(f"star.key.{stage}", run.stages.get(stage)) != run.stages.get(stage)

    def shown_rows(self, figure: FigureSpec) -> list[str]:
        """Labels of the rows that a figure shows."""
        return figure.rows or [variant.label for variant in self.experiment.variants if variant.runs]

    def drawn(self, label: str, figure: str) -> bytes | None:
        """Content of the file that a figure is drawn from, of the row's first seed that has one; None without any."""
        for run in self.runs(label):
            found = file_of(run.spec.pipeline, figure)
            if found is not None and run.key in self.tracked:
                content = self.reader.file(self.tracked[run.key], "/".join(found))
                if content is not None:
                    return content
        return None

    def provenance(self, run: PlannedRun, stage: str) -> dict[str, object]:
        """Code and machine of a stage's worker; empty if nothing is tracked."""
        tracked = self.tracked.get(run.key)
        if tracked is None:
            return {}
        if f"star.code.{stage}" in tracked.tags:
            return {
                "code": tracked.tags[f"star.code.{stage}"],
                "machine": tracked.tags.get(f"star.machine.{stage}", ""),
            }
        return _parsed(tracked.tags.get(f"star.provenance.{stage}", "{}"))  # tracked by an older version

    def state(self, run: PlannedRun, stage: str | None) -> str:
        """Why a number is missing: the state of its job, or of the first one before it that is not done."""
        if stage is None:
            return "not tracked"
        if stage not in run.stages:
            return IDLE
        keys = [run.stages[name] for name in needed_of((stage,), run.spec.pipeline) if name in run.stages]
        job = self.jobs.get(run.stages[stage])
        if job is not None and job.state == DONE:
            return "not tracked yet"
        for key in keys:
            before = self.jobs.get(key)
            if before is not None and before.state not in (DONE, QUEUED):
                return f"{before.stage} {before.state}"
        return "queued" if job is not None else "not run"

    def _formula(self, run: PlannedRun, name: str, formula: Formula) -> Source | str:
        parts: dict[str, Source] = {}
        for variable, measure in formula.measures.items():
            part = self._one(run, measure)
            if isinstance(part, str):
                return part
            parts[variable] = part
        value = formula.value({variable: part.value for variable, part in parts.items()})
        if not math.isfinite(value):
            return "not a number"
        stages = {stage: key for part in parts.values() for stage, key in part.stages.items()}
        codes = ", ".join(sorted({part.code for part in parts.values()}))
        scoring = next((part.scoring for part in parts.values() if part.scoring), None)
        return Source(run.key, run.seed, name, stages, codes, value, scoring)

    def _one(self, run: PlannedRun, measure: Measure) -> Source | str:
        stage = measure.stage
        name = run.spec.metric(measure.name.removeprefix(FOREIGN))
        value = self._value(run, measure, name)
        if isinstance(value, str):
            return value
        made = self._job_of(run, name) if stage is None else {stage: run.stages[stage]} if stage in run.stages else {}
        code = "not ours" if stage is None else str(self.provenance(run, stage).get("code", "unknown"))
        shown = f"{name}@{measure.at}" if measure.at else name
        scoring = run.spec.compared_by(stage) if stage is not None else None
        return Source(run.key, run.seed, shown, made, code, value, scoring)

    def _job_of(self, run: PlannedRun, name: str) -> dict[str, str]:
        """Stage -> key of the job that a user's own number was logged to; empty if it was logged to the run."""
        stage, _, key = self.tracked[run.key].tags.get(f"{OF_JOB}{name}", "").partition(" ")
        return {stage: key} if run.stages.get(stage) == key else {}

    def _value(self, run: PlannedRun, measure: Measure, name: str) -> float | str:
        """The tracked number, or why there is no valid one."""
        stage, tracked = measure.stage, self.tracked.get(run.key)
        if measure.is_cost and stage is not None and tracked is not None:
            return self._flops(run, stage)
        if tracked is None or (stage is not None and stage not in run.stages):
            return self.state(run, stage)
        if stage is not None and self._foreign(run, stage):
            return "tracked of another configuration"
        ended = stage is None or bool(self.provenance(run, stage))
        if measure.at:  # points come while their job still runs; results when it has ended
            value = curve_value(self._points(tracked, name), measure.at) if ended else None
        else:
            value = tracked.metrics.get(name)
        if value is None:
            job = self.jobs.get(run.stages[stage]) if stage is not None and ended else None
            # a job that is done, and of which all is tracked, has no such number: a baseline has no MIM loss
            return IDLE if job is not None and job.state == DONE else self.state(run, stage)
        return value if math.isfinite(value) else "not a number"

    def _flops(self, run: PlannedRun, stage: str) -> float | str:
        """Operations of a run's job as planned when it was entered, or why there is none; 0 for a stage that the run lacks."""
        key = run.stages.get(stage)
        if key is None:
            return 0.0
        job = self.jobs.get(key) or self.plan.jobs.get(key)
        return self.state(run, stage) if job is None else job.flops

    def _points(self, run: TrackedRun, metric: str) -> dict[int, float]:
        if metric not in self._curves:
            self._curves[metric] = self.reader.curves([one.id for one in self.tracked.values()], metric)
        return self._curves[metric].get(run.id, {})

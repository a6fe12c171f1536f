"""An experiment's table as data: each cell with its values per seed, its state, and the runs it came from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from star.ledger.store import Ledger
from star.report.curves import Curve, build_curves
from star.report.published import row_for, spec_value
from star.scheduler.plan import Plan, PlannedRun
from star.spec.experiment import Column, Experiment, Variant
from star.spec.run import RunSpec
from star.tracking import Tracker

INCEPTION_TITLES = {"FD": "FID", "sFD": "sFID"}


@dataclass
class Source:
    """Where one seed's number came from."""

    run: str
    seed: int
    mlflow_run: str
    metric: str
    stage_key: str
    code: str
    value: float


@dataclass
class Cell:
    """What stands in one row under one column."""

    text: str | None = None
    """Of a column that is not measured."""
    sources: list[Source] = field(default_factory=list)
    seeds: int = 0
    """Seeds that should be there."""
    state: str = ""
    """Of the first seed that is missing."""
    published: float | None = None
    best: bool = False

    @property
    def values(self) -> list[float]:
        """One per seed."""
        return [source.value for source in self.sources]

    @property
    def mean(self) -> float | None:
        """Over seeds; None without any."""
        return mean(self.values) if self.sources else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return stdev(self.values) if len(self.sources) > 1 else None


@dataclass
class Table:
    """Rows under columns, and what the reader must know."""

    experiment: Experiment
    rows: list[list[Cell]]
    labels: list[str]
    pictures: dict[str, bytes]
    """Row label -> sample grid of its first seed."""
    notes: list[str]
    curves: list[Curve]

    @property
    def columns(self) -> list[Column]:
        """As the experiment lays them out, a distance under the name that it has."""
        return [_named(column, self.experiment) for column in self.experiment.spec.table.columns]


def build(experiment: Experiment, plan: Plan, ledger: Ledger, tracker: Tracker) -> Table:
    """The table of an experiment from what its tracker holds."""
    known = ledger.runs(run.key for run in plan.runs)
    tracked = {
        run.key: tracker.find(run.key, known[run.key].tracking_id if run.key in known else None) for run in plan.runs
    }
    rows, pictures = [], {}
    for variant in experiment.variants:
        runs = [run for run in plan.runs if run.label == variant.label]
        published = row_for(experiment, variant) or {}
        rows.append(
            [_cell(column, variant, runs, tracked, ledger, published) for column in experiment.spec.table.columns]
        )
        first = tracked[runs[0].key]
        picture = tracker.read(first.info.run_id, "generate/samples.png") if first else None
        if picture:
            pictures[variant.label] = picture
    for i, column in enumerate(experiment.spec.table.columns):
        _mark_best(column, [row[i] for row in rows])
    bound = {key: str(run.info.run_id) for key, run in tracked.items() if run is not None}
    return Table(
        experiment,
        rows,
        [variant.label for variant in experiment.variants],
        pictures,
        _notes(experiment, plan, rows),
        build_curves(experiment, plan.runs, bound, tracker),
    )


def _named(column: Column, experiment: Experiment) -> Column:
    """A Frechet distance is FID when all of its features are Inception's, and never otherwise."""
    extractors = {run.score.extractor for variant in experiment.variants for run in variant.runs}
    title = INCEPTION_TITLES.get(column.title) if extractors == {"inception"} else None
    measured = column.metric is not None and column.metric.endswith("frechet_distance")
    return column.model_copy(update={"title": title}) if title and measured else column


def _cell(
    column: Column,
    variant: Variant,
    runs: list[PlannedRun],
    tracked: dict[str, Any],
    ledger: Ledger,
    published: dict[str, Any],
) -> Cell:
    if column.metric is None:
        return Cell(text=_text(column, variant))
    cell = Cell(seeds=len(runs), published=published.get(column.published) if column.published else None)
    for run in runs:
        metric = column.metric.format(extractor=run.spec.score.extractor)
        stage = metric.split("/")[0]
        found = tracked[run.key]
        if found is not None and metric in found.data.metrics:
            provenance = json.loads(found.data.tags.get(f"star.provenance.{stage}", "{}"))
            value = found.data.metrics[metric] * column.scale
            cell.sources.append(
                Source(
                    run.key,
                    run.seed,
                    found.info.run_id,
                    metric,
                    run.stages[stage],
                    provenance.get("code", "unknown"),
                    value,
                )
            )
        elif not cell.state:
            cell.state = _state(run, stage, ledger)
    return cell


def _state(run: PlannedRun, stage: str, ledger: Ledger) -> str:
    """Why a number is missing: the state of its job, or of the first one before it that is not done."""
    from star.spec.graph import needed

    keys = [run.stages[name] for name in needed((stage,))]
    known = ledger.jobs(keys)
    if run.stages[stage] in known and known[run.stages[stage]].state == "done":
        return "not tracked yet"
    for key in keys:
        if key in known and known[key].state not in ("done", "queued"):
            return f"{known[key].stage} {known[key].state}"
    return "queued" if run.stages[stage] in known else "not run"


def _text(column: Column, variant: Variant) -> str:
    if column.label:
        return variant.label
    if column.cell is not None:
        return str(variant.row.cells.get(column.cell, ""))
    assert column.spec is not None
    value = spec_value(variant, column.spec)
    if column.check:
        return "✓" if value else ""
    return str(value)


def _mark_best(column: Column, cells: list[Cell]) -> None:
    """The best of what is printed: values that look the same are equally good."""
    means = [round(cell.mean, column.digits) for cell in cells if cell.mean is not None]
    if column.better is None or len(means) < 2:
        return
    best = min(means) if column.better == "lower" else max(means)
    for cell in cells:
        cell.best = cell.mean is not None and round(cell.mean, column.digits) == best


def _scored(spec: RunSpec) -> str:
    score = spec.score
    compared = (
        f"the reference file {Path(score.reference).name}"
        if score.reference
        else f"{score.num_reference} training images"
    )
    sets = f"from {spec.generate.num_images} samples against {compared}"
    if score.extractor == "inception":
        return f"FID, sFID, IS, precision and recall as ADM's evaluator defines them, {sets}."
    return (
        f"FD, sFD, IS, precision and recall are computed on features of {score.extractor} (ImageNet weights) {sets}. "
        "They are not the Inception FID, sFID and IS of the published columns: compare orders, not values."
    )


def _notes(experiment: Experiment, plan: Plan, rows: list[list[Cell]]) -> list[str]:
    spec = plan.runs[0].spec
    sources = [source for row in rows for cell in row for source in cell.sources]
    codes = sorted({source.code for source in sources})
    seeds = sorted({run.seed for run in plan.runs})
    notes = [
        f"Profile {experiment.profile}: {spec.data.name}, {spec.data.train_images} training images of "
        f"{spec.data.image_size} x {spec.data.image_size}, "
        f"{spec.grid} x {spec.grid} codes of {spec.tokenizer.codebook_size}, {spec.total_steps} steps of {spec.optim.batch_size} images; "
        + (
            f"seed {seeds[0]}."
            if len(seeds) == 1
            else f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}."
        ),
    ]
    if any(column.metric and column.metric.startswith("score/") for column in experiment.spec.table.columns):
        notes.append(_scored(spec))
    if any(column.published for column in experiment.spec.table.columns):
        notes.append("“Paper” columns: arXiv:2509.15185, class-conditional ImageNet 256 x 256.")
    if experiment.spec.table.note:
        notes.append(experiment.spec.table.note)
    notes.append(f"Code {', '.join(codes)}." if codes else "Nothing is measured yet.")
    return notes

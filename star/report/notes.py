"""The sentences below a table: what its runs have in common, what varies over seeds, how numbers were measured, by which code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from star.report.evidence import Evidence
from star.report.published import published_of
from star.spec.profiles import NONE

if TYPE_CHECKING:
    from star.report.table import Table


def conditions(evidence: Evidence) -> str:
    """One sentence with the profile of an experiment and what its runs have in common."""
    experiment = evidence.experiment
    if experiment.profile == NONE:
        return f"Stages: {', '.join(experiment.needed)}."
    common = experiment.spec.run_class.conditions_of([run.spec for run in evidence.plan.runs])
    return f"Profile {experiment.profile}: {common}" if common else f"Profile {experiment.profile}."


def measured_by(evidence: Evidence, metrics: Iterable[str]) -> list[str]:
    """Sentences on how the metrics were measured, one per stage; it says so if rows were scored in different ways."""
    notes, by_stage = [], dict[str, list[str]]()
    for metric in dict.fromkeys(metrics):
        for stage in evidence.stages_of(metric):
            by_stage.setdefault(stage, []).append(metric)
    for stage, used in by_stage.items():
        there = [run for run in evidence.plan.runs if any(evidence.numbers(run.label, one).values for one in used)]
        runs = [run.spec for run in there or evidence.plan.runs]
        told = list(dict.fromkeys(filter(None, (run.measured_by(stage) for run in runs))))
        differs = _differences(filter(None, (run.compared_by(stage) for run in runs)))
        if differs:
            notes.append(
                f"Rows are scored in different ways, not ranked, and compared only with rows scored alike: {differs}. {' '.join(told)}"
            )
        else:
            notes += told if len(told) <= 1 else ["Not all rows are measured alike: " + " ".join(told)]
    return notes


def _differences(texts: Iterable[str]) -> str:
    """What differs between JSON texts: `NAME (VALUE, VALUE), NAME (...)`."""
    ways = [json.loads(text) for text in dict.fromkeys(texts)]
    values = {
        name: list(dict.fromkeys(json.dumps(way.get(name)) for way in ways)) for name in sorted(set().union(*ways))
    }
    return ", ".join(
        f"{name} ({', '.join(found).replace(chr(34), '')})" for name, found in values.items() if len(found) > 1
    )


def versions(evidence: Evidence) -> list[str]:
    """One sentence with the code versions and machines behind what is tracked of an experiment."""
    codes, machines = set(), set()
    for run in evidence.plan.runs:
        for stage in run.stages:
            origin = evidence.provenance(run, stage)
            if origin:
                codes.add(str(origin.get("code")))
                older = origin.get("device") if origin.get("gpus") else origin.get("cpu")
                machines.add(str(origin.get("machine", older)))
    if not codes:
        return ["Nothing is measured yet."]
    # a stage without tensors records less about its processor
    named = [name for name in machines if not any(other != name and other.startswith(name) for other in machines)]
    return [f"Code {', '.join(sorted(codes))}, on {', '.join(sorted(named))}."]


def notes_of(evidence: Evidence, table: Table) -> list[str]:
    """The notes that are printed below a table, one sentence each."""
    layout, experiment = table.spec, evidence.experiment
    runs = [run for run in evidence.plan.runs if run.spec.has_seed]
    seeds = sorted({run.seed for run in runs})
    after = {"std": "standard deviation", "interval": "half the 95% t interval"}[layout.spread]
    notes = [conditions(evidence)]
    if len(seeds) == 1:
        notes.append(f"One seed ({seeds[0]}) in each row: differences may be chance.")
    elif seeds:
        notes.append(f"Mean ± {after} over n = {_counts(evidence)} seeds ({', '.join(map(str, seeds))}).")
        notes += filter(None, [varying(evidence)])
    if any(cell.rank for row in table.rows for cell in row.cells):
        notes.append("Best in bold, second best underlined.")
    shown = [column.metric for column in table.columns if column.metric]
    limits = [
        name for stage in experiment.spec.pipeline.values() for one in shown for _, name in stage.limits.get(one, ())
    ]
    notes += measured_by(evidence, [*shown, *(limits if table.limits else [])])
    for variant in experiment.variants:
        given = experiment.spec.run_class.given_instead(variant.row.spec)
        if given:
            told = "images of" if variant.runs else "quoted; not there:"
            notes.append(f"{variant.label}: {told} {given}" + (", one measurement." if variant.runs else "."))
    judged = [
        (one.told, i) for row in table.rows for i, cell in enumerate(row.cells) for one in cell.differences.values()
    ]
    for told in dict.fromkeys(told for told, _ in judged if told):
        columns = {i for other, i in judged if other == told}
        notes.append(f"Differences in {', '.join(table.columns[i].title for i in sorted(columns))}: {told}.")
    if layout.published:
        notes.append(f"“Paper”: {published_of(experiment).source}.")
    if any(row.paper_only for row in table.rows):
        notes.append("Rows marked (quoted) are from there alone, not measured.")
    if layout.note:
        notes.append(layout.note)
    return notes + versions(evidence)


def varying(evidence: Evidence) -> str:
    """One sentence on what differs between the seeds of a row, and what is the same for all; empty with one seed."""
    by_row: dict[str, list[dict[str, str]]] = {}
    for run in evidence.plan.runs:
        by_row.setdefault(run.label, []).append(run.stages)
    several = [runs for runs in by_row.values() if len(runs) > 1]
    needed, pipeline = evidence.experiment.needed, evidence.experiment.spec.pipeline
    stages = {name: stage for name, stage in pipeline.items() if name in needed}
    changed = {
        name
        for runs in several
        for name in runs[0]
        if len({one[name] for one in runs if name in one}) > 1 and name in stages
    }
    if not changed:
        return ""
    present = [name for name in stages if any(name in runs[0] for runs in several) and stages[name].draws]
    vary = [stages[name].draws for name in present if name in changed]
    same = [stages[name].draws for name in present if name not in changed]
    if not vary:
        return ""
    return f"Over seeds vary {', '.join(vary)}" + (f"; one draw for all: {', '.join(same)}." if same else ".")


def _counts(evidence: Evidence) -> str:
    """The number of seeds of each row: one number, or the smallest and largest."""
    counts = [len(evidence.runs(variant.label)) for variant in evidence.experiment.variants if variant.runs]
    several = sorted({count for count in counts if count > 1})
    return str(several[0]) if len(several) == 1 else f"{several[0]} to {several[-1]}"

"""Cost of rows in hours of GPUs or CPU cores, as tracked for each stage; stages that rows share are listed apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from star.report.evidence import Evidence
from star.scheduler.plan import PlannedRun


@dataclass(frozen=True)
class Cost:
    """Device hours of one row, summed over its seeds."""

    label: str
    cpu_hours: float = 0.0
    """CPU-slot hours of the stages that ran without a GPU."""
    gpu_hours: float = 0.0

    def __str__(self) -> str:
        parts = [
            f"{hours:.2f} {unit}" for hours, unit in ((self.gpu_hours, "GPU-h"), (self.cpu_hours, "CPU-h")) if hours
        ]
        return ", ".join(parts) or "-"


def costs(evidence: Evidence) -> list[Cost]:
    """The cost of each row that has tracked hours.

    A job counts once. Jobs that several rows need are in a last entry, `shared by rows`.
    """
    users: dict[tuple[str, str], set[str]] = {}
    known: dict[tuple[str, str], tuple[float, float]] = {}
    for run in evidence.plan.runs:
        for stage, key in run.stages.items():
            users.setdefault((stage, key), set()).add(run.label)
            if not any(known.get((stage, key), ())):
                known[stage, key] = hours_of(evidence, run, stage)
    hours: dict[str, list[tuple[float, float]]] = {}
    for place, labels in users.items():
        label = next(iter(labels)) if len(labels) == 1 else "shared by rows"
        hours.setdefault(label, []).append(known[place])
    order = [*(variant.label for variant in evidence.experiment.variants), "shared by rows"]
    found = [_summed(label, hours[label]) for label in order if label in hours]
    return [cost for cost in found if cost.cpu_hours or cost.gpu_hours]


def total(parts: Iterable[Evidence]) -> Cost:
    """The cost of several experiments together; each job counts once."""
    seen: dict[tuple[str, str], tuple[float, float]] = {}
    for evidence in parts:
        for run in evidence.plan.runs:
            for stage, key in run.stages.items():
                if not any(seen.get((stage, key), ())):
                    seen[stage, key] = hours_of(evidence, run, stage)
    return _summed("all experiments, each stage once", list(seen.values()))


def _summed(label: str, hours: list[tuple[float, float]]) -> Cost:
    return Cost(label, sum(cpu for cpu, _ in hours), sum(gpu for _, gpu in hours))


def hours_of(evidence: Evidence, run: PlannedRun, stage: str) -> tuple[float, float]:
    """(CPU-slot hours, GPU hours) of one stage of a run; zeros where nothing is tracked."""
    tracked = evidence.tracked.get(run.key)
    found = tracked.metrics if tracked else {}
    if f"{stage}/gpu_hours" in found or f"{stage}/cpu_hours" in found:
        return found.get(f"{stage}/cpu_hours", 0.0), found.get(f"{stage}/gpu_hours", 0.0)
    seconds = found.get(f"{stage}/seconds", 0.0)  # tracked by an older version
    origin = evidence.provenance(run, stage)
    processes = int(str(origin.get("processes") or 1))  # over all nodes
    if origin.get("gpus"):
        return 0.0, seconds * processes / 3600
    return seconds * processes * int(str(origin.get("threads") or 1)) / 3600, 0.0

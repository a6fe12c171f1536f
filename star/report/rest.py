"""What would decide an open claim: more seeds of which rows, and what they would cost by what the seeds so far have cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from star.report.claims import ClaimResult
from star.report.contrasts import UNDECIDED
from star.report.cost import hours_of
from star.report.evidence import Evidence
from star.report.looks import open_parts


@dataclass(frozen=True)
class Rest:
    """What an open claim wants."""

    claim: str
    """Its id."""
    rows: Mapping[str, tuple[int, int | None]]
    """Row -> (seeds that it has, seeds that would likely decide; None if unknown, or too many to count)."""
    hours: float | None
    """Device hours until it is likely decided; None if unknown."""

    @property
    def runs(self) -> int | None:
        """Runs that are missing until it is likely decided; None if unknown."""
        counts = [None if wants is None else max(0, wants - has) for has, wants in self.rows.values()]
        return None if None in counts or not counts else sum(count or 0 for count in counts)

    def data(self) -> dict[str, object]:
        """The same as a value for JSON."""
        rows = {row: {"has": has, "wants": wants} for row, (has, wants) in self.rows.items()}
        return {"claim": self.claim, "rows": rows, "runs": self.runs, "hours": self.hours}


def rest_of(found: ClaimResult, evidence: Evidence, hours: Mapping[str, float]) -> Rest | None:
    """What an open claim wants; None of a decided one.

    Args:
        hours: row label -> device hours of one seed, from `hours_per_seed`.
    """
    if found.verdict != UNDECIDED:
        return None
    wants: dict[str, int | None] = {}
    for part in open_parts(found):
        for sample in part.samples:
            before = wants.get(sample.row, 0)
            wants[sample.row] = None if before is None or part.seeds is None else max(before, part.seeds)
    rows = {row: (len(evidence.runs(row)), count) for row, count in wants.items()}
    costs = [
        None if count is None or row not in hours else max(0, count - has) * hours[row]
        for row, (has, count) in rows.items()
    ]
    return Rest(found.claim.id, rows, None if None in costs or not costs else sum(cost or 0.0 for cost in costs))


def hours_per_seed(evidence: Evidence) -> dict[str, float]:
    """Row label -> device hours of one seed: the mean over its seeds of the jobs that no other seed of the row shares.

    A job that rows share counts in each of them, so that a budget is not overrun.
    """
    users = Counter((run.label, key) for run in evidence.plan.runs for key in run.stages.values())
    found: dict[str, list[float]] = {}
    for run in evidence.plan.runs:
        own = [sum(hours_of(evidence, run, stage)) for stage, key in run.stages.items() if users[run.label, key] == 1]
        if any(own):
            found.setdefault(run.label, []).append(sum(own))
    return {label: sum(values) / len(values) for label, values in found.items()}


def by_promise(rests: Sequence[Rest]) -> list[Rest]:
    """Open claims, those first that likely cost least to decide; of unknown cost last."""
    return sorted(rests, key=lambda rest: (rest.hours is None, rest.hours or 0.0))


def rests_of(judged: Sequence[ClaimResult], evidence: Evidence) -> list[Rest]:
    """What would decide each open claim, those first that likely cost least."""
    hours = hours_per_seed(evidence)
    return by_promise([rest for one in judged if (rest := rest_of(one, evidence, hours))])


def told_rest(rest: Rest) -> str:
    """One sentence on what would decide a claim: seeds of which rows, runs and device hours."""
    if not rest.rows:
        return f"{rest.claim}: rows that were not run, or have no value"
    unknown = [row for row, (_, wants) in rest.rows.items() if wants is None]
    if unknown:
        return f"{rest.claim}: no number of seeds can be told for {', '.join(unknown)}: too few so far, or the means lie too close"
    rows = ", ".join(f"{row} ({has} to {wants})" for row, (has, wants) in rest.rows.items())
    cost = "cost unknown" if rest.hours is None else f"about {rest.hours:.2g} device hours"
    return f"{rest.claim}: likely more seeds of {rows}: {rest.runs} runs, {cost}"

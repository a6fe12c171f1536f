"""Verdicts on claims: predicates become contrasts between rows, contrasts intervals, and all intervals one verdict.

A claim holds if all its contrasts do. It is *supported* if every contrast's 95% interval lies on the claimed side
(an intersection of tests: together they still err in at most 5% of cases), *contradicted* if at least one lies on
the other side at 95% for all of them together (Bonferroni), and *undecided* otherwise, also if a row is missing or
has one seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from star.report.contrasts import UNDECIDED, Contrast, contrasts_of
from star.report.evidence import Evidence
from star.report.method import METHODS, NAMES, judge_by
from star.report.stats import LEVEL, MAX_SEEDS, MIN_BOOTSTRAP
from star.spec.claims import Claim

if TYPE_CHECKING:
    from star.report.looks import Look

SHORT = {"frechet_distance": "FD", "spatial_frechet_distance": "sFD", "inception_score": "IS"}
"""Names of the scores if the feature network is not Inception."""
SUPPORTED, CONTRADICTED = "supported", "contradicted"


@dataclass
class ClaimResult:
    """A claim and its verdict."""

    claim: Claim
    parts: list[Contrast]
    verdict: str
    note: str = ""
    """What would decide an undecided claim."""
    look: Look | None = None
    """At which of the planned looks it was judged, if seeds are added while claims are open."""
    judged_on: str = ""
    """What was measured in place of the paper's metric; empty if it is the same."""

    @property
    def text(self) -> str:
        """The claim's text, with what it was judged on if that is not the paper's metric."""
        return f"{self.claim.text} (judged on {self.judged_on})" if self.judged_on else self.claim.text

    @property
    def counts(self) -> str:
        """Seeds of its comparisons as text: one number, or the smallest and the largest, such as `3 to 12`."""
        found = [part.count for part in self.parts] or [0]
        return str(found[0]) if min(found) == max(found) else f"{min(found)} to {max(found)}"

    @property
    def count(self) -> int:
        """The smallest number of seeds behind any of the claim's contrasts."""
        return min((part.count for part in self.parts), default=0)


def judge(claim: Claim, evidence: Evidence) -> ClaimResult:
    """Judge one claim from what is tracked now, as if nobody had looked before."""
    parts = [part for predicate in claim.that for part in contrasts_of(predicate, evidence)]
    method = claim.interval or evidence.experiment.spec.interval
    strict = strictness(parts, LEVEL)
    for part in parts:
        if not part.missing:
            judge_part(part, method, LEVEL, strict)
    found = verdict_of(claim, parts)
    found.judged_on = judged_on(claim, evidence)
    return found


def judged_on(claim: Claim, evidence: Evidence) -> str:
    """The claim's distances and scores, if runs use another network than Inception's; else empty."""
    own, against = evidence.experiment.spec.metrics, evidence.experiment.spec.against
    named = [against[part.metric].value if part.metric in against else part.metric for part in claim.that]
    texts = [own.get(name, name) for name in named]
    names = [SHORT[name] for name in SHORT if any(f"{{extractor}}/{name}" in text for text in texts)]
    others = {run.spec.metric("{extractor}") for run in evidence.plan.runs} - {"inception"}
    if not names or not others:
        return ""
    return f"{' and '.join(names)} of {' and '.join(sorted(others))}, not the paper's on Inception"


def strictness(parts: list[Contrast], level: float) -> float:
    """The confidence level at which one of these contrasts contradicts a claim (Bonferroni)."""
    return 1 - (1 - level) / max(1, sum(part.against for part in parts))


def verdict_of(claim: Claim, parts: list[Contrast]) -> ClaimResult:
    """The verdict on a claim whose contrasts are judged."""
    if any(part.verdict == CONTRADICTED for part in parts):
        return ClaimResult(claim, parts, CONTRADICTED)
    open_parts = [part for part in parts if part.decides and part.verdict != SUPPORTED]
    blocked = [part for part in parts if not part.decides and part.found is None]
    if parts and not open_parts and not blocked:
        return ClaimResult(claim, parts, SUPPORTED)
    needs = _what_would_decide(open_parts + blocked) if parts else "rows to compare: the experiment measures none"
    return ClaimResult(claim, parts, UNDECIDED, needs)


def judge_part(part: Contrast, method: str, level: float, strict: float) -> None:
    """Judge one contrast: supported beyond doubt at `level`, contradicted beyond doubt at `strict`, or undecided."""
    part.judge = judge_by(method, part.samples, part.block)
    part.found = part.judge.interval(level)
    if part.found.low is None:
        return
    severe = part.judge.interval(strict)
    assert severe.high is not None
    if part.against and severe.high < part.bound:
        part.verdict = CONTRADICTED
    elif part.found.low > part.bound:
        part.verdict = SUPPORTED
    else:
        distance = part.found.estimate - part.bound
        level = level if distance > 0 else strict
        part.seeds = part.judge.seeds(distance, level)
        part.seeds_by = {
            name: judge_by(name, part.samples, part.block).seeds(distance, level)
            for name in METHODS
            if judge_by(name, part.samples, part.block).method == name
        }


def _what_would_decide(parts: list[Contrast]) -> str:
    missing = sorted({reason for part in parts for reason in part.missing})
    if missing:
        return f"missing: {'; '.join(missing)}"
    waiting = [sample for part in parts if part.found is None for sample in part.samples]
    if waiting:
        few = min(waiting, key=lambda sample: len(sample.values))
        return f"not judged yet: {few.row} has {len(few.values)} of the seeds that a look wants"
    if any(part.count < 2 for part in parts):
        return "one measurement has no spread; three seeds or more would tell"
    boundless = [part for part in parts if part.found and part.found.low is None]
    if boundless:
        if any(part.spread and part.judge and part.judge.method == "bootstrap" for part in boundless):
            return f"the bootstrap wants {MIN_BOOTSTRAP} seeds in each row"
        what = "differences" if any(part.spread for part in boundless) else "seeds"
        return f"the {what} agree to the last digit: no spread to judge by"
    return _seeds_needed(parts)


def _seeds_needed(parts: list[Contrast]) -> str:
    wrong = [part for part in parts if part.seeds and part.found and part.found.estimate < part.bound]
    if wrong:  # one contradiction is enough
        first = min(wrong, key=lambda part: part.seeds or 0)
        return f"if means stay as they are, about {first.seeds} seeds would contradict it{_by_others(first)}"
    if all(part.seeds for part in parts):
        last = max(parts, key=lambda part: part.seeds or 0)
        return f"if means stay as they are, about {last.seeds} seeds would support it{_by_others(last)}"
    return f"the means lie too close for any number of seeds up to {MAX_SEEDS}"


def _by_others(part: Contrast) -> str:
    """The seeds that the methods which were not asked for would need, as words in brackets; empty if none can be used."""
    used = part.judge.method if part.judge else ""
    others = [f"{NAMES[name]} {count or f'over {MAX_SEEDS}'}" for name, count in part.seeds_by.items() if name != used]
    return f" ({', '.join(others)})" if others else ""

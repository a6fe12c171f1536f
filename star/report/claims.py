"""Verdicts on claims: predicates become contrasts between rows, contrasts intervals, and all intervals one verdict.

A claim holds if all its contrasts do. It is *supported* if every contrast's 95% interval lies on the claimed side
(an intersection of tests: together they still err in at most 5% of cases), *contradicted* if at least one lies on
the other side at 95% for all of them together (Bonferroni), and *undecided* otherwise, also if a row is missing or
has one seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import copysign
from statistics import fmean

from star.report.evidence import Evidence
from star.report.stats import (
    LEVEL,
    MAX_SEEDS,
    MIN_BOOTSTRAP,
    Interval,
    Sample,
    contrast,
    effect_of_one,
    effect_size,
    seeds_to_decide,
)
from star.spec.base import Section
from star.spec.claims import BestAt, Claim, Compares, DeclineAfter, Greater, Less, Monotone, NoDeclineAfter
from star.spec.experiment import measured_rows
from star.spec.measure import nearest, parse_measure

SHORT = {"frechet_distance": "FD", "spatial_frechet_distance": "sFD", "inception_score": "IS"}
"""Names of the scores if the feature network is not Inception."""
SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"


@dataclass
class Contrast:
    """One contrast of a claim: `estimate` should be above `bound`."""

    text: str
    """The contrast in words, such as `ST-AR > baseline`."""
    metric: str
    samples: list[Sample] = field(default_factory=list)
    bound: float = 0.0
    against: bool = True
    """Whether an interval on the other side of `bound` contradicts the claim."""
    decides: bool = True
    """Whether the claim needs an interval on the claimed side; a step of a trend can only contradict it."""
    sign: float = 1.0
    """-1 if the claim is that something is lower; reports show the change without this sign."""
    missing: list[str] = field(default_factory=list)
    """Rows without values, and why."""
    found: Interval | None = None
    effect: float | None = None
    seeds: int | None = None
    """Seeds per row that would likely decide the contrast; None if unknown."""
    verdict: str = UNDECIDED

    @property
    def change(self) -> Interval | None:
        """The change itself (difference of rows, slope or rise), without `sign`; None if it is not estimated."""
        found = self.found
        if found is None or self.sign > 0:
            return found
        if found.low is None or found.high is None:
            return Interval(-found.estimate, level=found.level)
        return Interval(-found.estimate, -found.high, -found.low, found.level)

    @property
    def spread(self) -> bool:
        """Whether the seeds of any row differ."""
        return any(len(set(sample.values)) > 1 for sample in self.samples)

    @property
    def count(self) -> int:
        """The smallest number of seeds of any row; 0 without values."""
        return min((len(sample.values) for sample in self.samples), default=0)


@dataclass
class ClaimResult:
    """A claim and its verdict."""

    claim: Claim
    parts: list[Contrast]
    verdict: str
    note: str = ""
    """What would decide an undecided claim."""
    judged_on: str = ""
    """What was measured in place of the paper's metric; empty if it is the same."""

    @property
    def text(self) -> str:
        """The claim's text, with what it was judged on if that is not the paper's metric."""
        return f"{self.claim.text} (judged on {self.judged_on})" if self.judged_on else self.claim.text

    @property
    def count(self) -> int:
        """The smallest number of seeds behind any of the claim's contrasts."""
        return min(part.count for part in self.parts)


def judge_all(evidence: Evidence) -> list[ClaimResult]:
    """Judge all claims of an experiment, in order."""
    return [judge(claim, evidence) for claim in evidence.experiment.spec.claims]


def judge(claim: Claim, evidence: Evidence) -> ClaimResult:
    """Judge one claim from what is tracked now."""
    found = _judged(claim, evidence)
    found.judged_on = _judged_on(claim, evidence)
    return found


def _judged_on(claim: Claim, evidence: Evidence) -> str:
    """The claim's distances and scores, if runs use another network than Inception's; else empty."""
    texts = [evidence.experiment.spec.metrics.get(part.metric, part.metric) for part in claim.that]
    names = [SHORT[name] for name in SHORT if any(f"{{extractor}}/{name}" in text for text in texts)]
    others = {run.spec.metric("{extractor}") for run in evidence.plan.runs} - {"inception"}
    if not names or not others:
        return ""
    return f"{' and '.join(names)} of {' and '.join(sorted(others))}, not the paper's on Inception"


def _judged(claim: Claim, evidence: Evidence) -> ClaimResult:
    parts = [part for predicate in claim.that for part in _parts(predicate, evidence)]
    testing = max(1, sum(part.against for part in parts))
    for part in parts:
        _judge_part(part, claim.interval, 1 - (1 - LEVEL) / testing)
    if any(part.verdict == CONTRADICTED for part in parts):
        return ClaimResult(claim, parts, CONTRADICTED)
    open_parts = [part for part in parts if part.decides and part.verdict != SUPPORTED]
    blocked = [part for part in parts if not part.decides and part.found is None]
    if not open_parts and not blocked:
        return ClaimResult(claim, parts, SUPPORTED)
    return ClaimResult(claim, parts, UNDECIDED, _what_would_decide(open_parts + blocked))


def _judge_part(part: Contrast, method: str, strict: float) -> None:
    if part.missing:
        return
    part.found = contrast(part.samples, LEVEL, method)
    if part.found.low is None:
        return
    severe = contrast(part.samples, strict, method)
    assert severe.high is not None
    if part.against and severe.high < part.bound:
        part.verdict = CONTRADICTED
    elif part.found.low > part.bound:
        part.verdict = SUPPORTED
    else:
        distance = part.found.estimate - part.bound
        part.seeds = seeds_to_decide(part.samples, distance, LEVEL if distance > 0 else strict)


def _what_would_decide(parts: list[Contrast]) -> str:
    missing = sorted({reason for part in parts for reason in part.missing})
    if missing:
        return f"missing: {'; '.join(missing)}"
    if any(part.count < 2 for part in parts):
        return "one measurement has no spread; three seeds or more would tell"
    boundless = [part for part in parts if part.found and part.found.low is None]
    if boundless:
        resampled = f"the bootstrap wants {MIN_BOOTSTRAP} seeds in each row"
        return (
            resampled
            if any(part.spread for part in boundless)
            else "the seeds agree to the last digit: no spread to judge by"
        )
    return _seeds_needed(parts)


def _seeds_needed(parts: list[Contrast]) -> str:
    wrong = [part.seeds for part in parts if part.seeds and part.found and part.found.estimate < part.bound]
    if wrong:  # one contradiction is enough
        return f"if means stay as they are, about {min(wrong)} seeds would contradict it"
    if all(part.seeds for part in parts):
        return f"if means stay as they are, about {max(part.seeds or 0 for part in parts)} seeds would support it"
    return f"the means lie too close for any number of seeds up to {MAX_SEEDS}"


def _parts(predicate: Section, evidence: Evidence) -> Iterator[Contrast]:
    if isinstance(predicate, Compares):
        for other in predicate.than:
            yield from _comparison(predicate, other, evidence)
    elif isinstance(predicate, BestAt):
        sign = -1.0 if predicate.better == "lower" else 1.0
        others = predicate.rows or measured_rows(evidence.experiment)
        for other in (label for label in others if label != predicate.row):
            yield _difference(predicate.row, other, predicate.metric, sign, evidence)
    elif isinstance(predicate, Monotone):
        yield from _trend(predicate, evidence)
    elif isinstance(predicate, NoDeclineAfter | DeclineAfter):
        yield _decline(predicate, evidence)


def _comparison(predicate: Compares, other: str, evidence: Evidence) -> Iterator[Contrast]:
    sign = -1.0 if isinstance(predicate, Less) else 1.0
    assert isinstance(predicate, Less | Greater)
    metric = predicate.metric
    whole = (
        metric not in evidence.experiment.spec.metrics
        and parse_measure(metric, evidence.experiment.spec.pipeline).is_curve
    )
    names = [metric]
    if whole:
        both = [
            {step for one in evidence.curve(row, metric).values() for step in one} for row in (predicate.row, other)
        ]
        names = [f"{metric}@{step}" for step in sorted(both[0] & both[1])] or [f"{metric}@last"]
    for name in names:
        part = _difference(predicate.row, other, name, sign, evidence)
        if isinstance(predicate.margin, str):  # in percent of the other row's mean, which varies over seeds too
            if part.samples:
                mine, its = part.samples
                factor = 1 + sign * float(predicate.margin[:-1]) / 100 * copysign(1, fmean(its.values))
                part.samples = [mine, Sample(its.weight * factor, its.values)]
                part.text = f"{predicate.row} {'>' if sign > 0 else '<'} {factor:g} x {other}"
        elif predicate.margin:
            part.bound = predicate.margin
            part.text += f" by {predicate.margin:g}"
        yield part


def _difference(row: str, other: str, metric: str, sign: float, evidence: Evidence) -> Contrast:
    """The contrast `row > other` for sign 1, `row < other` for sign -1."""
    part = Contrast(f"{row} {'>' if sign > 0 else '<'} {other}", metric, sign=sign)
    both = [_values(label, metric, evidence, part) for label in (row, other)]
    if len(evidence.numbers(row, metric).scorings | evidence.numbers(other, metric).scorings) > 1:
        part.missing.append(f"{row} and {other} are scored in different ways")
    if not part.missing:
        part.samples = [Sample(sign, both[0]), Sample(-sign, both[1])]
        part.effect = effect_size(both[0], both[1])
    return part


def _trend(predicate: Monotone, evidence: Evidence) -> Iterator[Contrast]:
    """The slope over the rows' ranks, which must go the claimed way, and each step, which must not go the other way."""
    labels = predicate.rows or measured_rows(evidence.experiment)
    sign = 1.0 if predicate.direction == "increasing" else -1.0
    slope = Contrast(f"{predicate.direction} over {', '.join(labels)}", predicate.metric, sign=sign)
    values = [_values(label, predicate.metric, evidence, slope) for label in labels]
    middle = (len(labels) - 1) / 2
    scale = sum((i - middle) ** 2 for i in range(len(labels)))
    if not slope.missing:
        slope.samples = [Sample(sign * (i - middle) / scale, found) for i, found in enumerate(values)]
        slope.effect = effect_size(values[-1], values[0])
    yield slope
    for before, after in pairwise(labels):
        step = _difference(after, before, predicate.metric, sign, evidence)
        step.decides = False
        yield step


def _decline(predicate: NoDeclineAfter | DeclineAfter, evidence: Evidence) -> Contrast:
    """Each seed's last value minus its own value at the step, so that differences between seeds cancel."""
    curves = evidence.curve(predicate.row, predicate.metric)
    keeps = isinstance(predicate, NoDeclineAfter)
    part = Contrast(
        f"{predicate.row} {'keeps its height' if keeps else 'declines'} after {predicate.after}", predicate.metric
    )
    if not curves:
        part.missing.append(f"{predicate.row} ({_reason(predicate.row, predicate.metric + '@last', evidence)})")
        return part
    rises = []
    for curve in curves.values():
        steps = sorted(curve)
        before = nearest(steps, predicate.after)
        if before == steps[-1]:
            part.missing.append(
                f"{predicate.row} (no step recorded between {predicate.after} of the curve and its end)"
            )
            return part
        rises.append(curve[steps[-1]] - curve[before])
    part.samples = [Sample(1.0 if keeps else -1.0, rises)]
    part.sign = 1.0 if keeps else -1.0
    if isinstance(predicate, NoDeclineAfter):
        part.bound = -predicate.tolerance
        part.text += f", to {predicate.tolerance:g}" if predicate.tolerance else ""
    part.effect = effect_of_one(rises)
    return part


def _values(label: str, metric: str, evidence: Evidence, part: Contrast) -> list[float]:
    values = evidence.numbers(label, metric).values
    if not values:
        part.missing.append(f"{label} ({_reason(label, metric, evidence)})")
    return values


def _reason(label: str, metric: str, evidence: Evidence) -> str:
    missing = evidence.numbers(label, metric).missing
    return next(iter(missing.values()), "not measured")

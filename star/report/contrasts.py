"""What a claim says, as contrasts between rows: each predicate becomes weighted sums of rows that should lie above a bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import copysign, isfinite
from statistics import fmean

from star.report.block import Block
from star.report.evidence import Evidence
from star.report.method import Judge
from star.report.stats import Interval, Sample, effect_of_one, effect_size, superiority
from star.spec.base import Section
from star.spec.claims import BestAt, Compares, DeclineAfter, Greater, Less, Monotone, NoDeclineAfter
from star.spec.experiment import measured_rows
from star.spec.measure import nearest, parse_measure

UNDECIDED = "undecided"


@dataclass
class Contrast:
    """One contrast of a claim: `estimate` should be above `bound`."""

    text: str
    """The contrast in words, such as `ST-AR > baseline`."""
    metric: str
    rows: tuple[str, ...]
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
    chance: float | None = None
    """Share of pairs of seeds in which the first row has the larger value; None of a trend, or of one row."""
    block: Block | None = None
    """All rows that were measured like these."""
    judge: Judge | None = None
    """The method that gave `found`; None without values."""
    seeds: int | None = None
    """Seeds per row that would likely decide the contrast; None if unknown."""
    seeds_by: dict[str, int | None] = field(default_factory=dict)
    """Method -> `seeds` with it, of an undecided contrast."""
    verdict: str = UNDECIDED
    look: int = 0
    """The last of the planned looks at which it was judged, 1-based; 0 if at none, or if seeds are fixed."""

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


def contrasts_of(predicate: Section, evidence: Evidence) -> Iterator[Contrast]:
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
        and metric not in evidence.experiment.spec.against
        and parse_measure(metric, evidence.experiment.spec.pipeline).is_curve
    )
    names = [metric]
    if whole:
        both = [
            {step for one in evidence.curve(row, metric, finite=False).values() for step in one}
            for row in (predicate.row, other)
        ]
        names = [f"{metric}@{step}" for step in sorted(both[0] & both[1])] or [f"{metric}@last"]
    for name in names:
        part = _difference(predicate.row, other, name, sign, evidence)
        if isinstance(predicate.margin, str):  # in percent of the other row's mean, which varies over seeds too
            if part.samples:
                mine, its = part.samples
                factor = 1 + sign * float(predicate.margin[:-1]) / 100 * copysign(1, fmean(its.values))
                part.samples = [mine, replace(its, weight=its.weight * factor)]
                part.text = f"{predicate.row} {'>' if sign > 0 else '<'} {factor:g} x {other}"
        elif predicate.margin:
            part.bound = predicate.margin
            part.text += f" by {predicate.margin:g}"
        yield part


def _difference(row: str, other: str, metric: str, sign: float, evidence: Evidence) -> Contrast:
    """The contrast `row > other` for sign 1, `row < other` for sign -1."""
    part = Contrast(f"{row} {'>' if sign > 0 else '<'} {other}", metric, (row, other), sign=sign)
    both = [_values(label, metric, evidence, part) for label in (row, other)]
    if len(evidence.numbers(row, metric).scorings | evidence.numbers(other, metric).scorings) > 1:
        part.missing.append(f"{row} and {other} are scored in different ways")
    if not part.missing:
        part.samples = [replace(both[0], weight=sign), replace(both[1], weight=-sign)]
        part.effect = effect_size(both[0].values, both[1].values)
        part.chance = superiority(both[0].values, both[1].values)
        part.block = evidence.block(row, metric)
    return part


def _trend(predicate: Monotone, evidence: Evidence) -> Iterator[Contrast]:
    """The slope over the rows' ranks, which must go the claimed way, and each step, which must not go the other way."""
    labels = predicate.rows or measured_rows(evidence.experiment)
    sign = 1.0 if predicate.direction == "increasing" else -1.0
    slope = Contrast(f"{predicate.direction} over {', '.join(labels)}", predicate.metric, tuple(labels), sign=sign)
    values = [_values(label, predicate.metric, evidence, slope) for label in labels]
    if len(set().union(*(evidence.numbers(label, predicate.metric).scorings for label in labels))) > 1:
        slope.missing.append("rows that are scored in different ways")
    middle = (len(labels) - 1) / 2
    scale = sum((i - middle) ** 2 for i in range(len(labels)))
    if not slope.missing:
        slope.samples = [replace(found, weight=sign * (i - middle) / scale) for i, found in enumerate(values)]
        slope.effect = effect_size(values[-1].values, values[0].values)
        slope.block = evidence.block(labels[0], predicate.metric)
    yield slope
    for before, after in pairwise(labels):
        step = _difference(after, before, predicate.metric, sign, evidence)
        step.decides = False
        yield step


def _decline(predicate: NoDeclineAfter | DeclineAfter, evidence: Evidence) -> Contrast:
    """Each seed's last value minus its own value at the step, so that differences between seeds cancel."""
    curves = evidence.curve(predicate.row, predicate.metric, finite=False)
    keeps = isinstance(predicate, NoDeclineAfter)
    text = f"{predicate.row} {'keeps its height' if keeps else 'declines'} after {predicate.after}"
    part = Contrast(text, predicate.metric, (predicate.row,))
    if not curves:
        part.missing.append(f"{predicate.row} ({_reason(predicate.row, predicate.metric + '@last', evidence)})")
        return part
    rises = {}
    for seed, curve in curves.items():
        steps = sorted(curve)
        before = nearest(steps, predicate.after)
        if before == steps[-1]:
            part.missing.append(
                f"{predicate.row} (no step recorded between {predicate.after} of the curve and its end)"
            )
            return part
        rise = curve[steps[-1]] - curve[before]
        if isfinite(rise):  # else the seed diverged
            rises[seed] = rise
    if not rises:
        part.missing.append(f"{predicate.row} (not a number)")
        return part
    part.samples = [Sample(1.0 if keeps else -1.0, list(rises.values()), list(rises), predicate.row)]
    part.sign = 1.0 if keeps else -1.0
    if isinstance(predicate, NoDeclineAfter):
        part.bound = -predicate.tolerance
        part.text += f", to {predicate.tolerance:g}" if predicate.tolerance else ""
    part.effect = effect_of_one(list(rises.values()))
    return part


def _values(label: str, metric: str, evidence: Evidence, part: Contrast) -> Sample:
    found = evidence.numbers(label, metric)
    if not found.values:
        part.missing.append(f"{label} ({_reason(label, metric, evidence)})")
    return Sample(1.0, found.values, found.seeds, label)


def _reason(label: str, metric: str, evidence: Evidence) -> str:
    missing = evidence.numbers(label, metric).missing
    return next(iter(missing.values()), "not measured")

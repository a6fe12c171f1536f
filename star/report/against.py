"""Metrics that set a run against the same seed's runs of other rows: a difference, or a ratio, where these cost as much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from star.report.samples import Samples, Source
from star.spec.reporting import Against

if TYPE_CHECKING:
    from star.report.evidence import Evidence


def samples_against(evidence: Evidence, label: str, name: str, spec: Against) -> Samples:
    """A row's numbers of the metric `name`, one per seed that the other rows have too. The other rows' differences are no numbers."""
    if label in spec.rows and spec.kind == "difference":
        return Samples(idle=True)
    own = evidence.numbers(label, spec.value)
    found = Samples(missing=dict(own.missing), idle=own.idle)
    places = {} if spec.along is None else _by_seed(evidence, label, spec.along)
    for source in own.sources:
        other = _other(evidence, spec, source, places.get(source.seed))
        if isinstance(other, str):
            found.missing[source.seed] = other
            continue
        value = source.value - other if spec.kind == "difference" else source.value / other if other else math.nan
        if math.isfinite(value):
            found.sources.append(replace(source, metric=name, value=value))
        else:
            found.missing[source.seed] = "not a number"
    return found


def _by_seed(evidence: Evidence, label: str, metric: str) -> dict[int, float]:
    return {source.seed: source.value for source in evidence.numbers(label, metric).sources}


def _other(evidence: Evidence, spec: Against, own: Source, place: float | None) -> float | str:
    """What the other rows have of the own source's seed, or why nothing can be said."""
    points = []
    for row in spec.rows:
        same = [one for one in evidence.numbers(row, spec.value).sources if one.seed == own.seed]
        if not same:
            return f"{row} has none of seed {own.seed}"
        if same[0].scoring != own.scoring:
            return f"{row} was scored in another way"
        points.append(
            (0.0 if spec.along is None else _by_seed(evidence, row, spec.along).get(own.seed, math.nan), same[0].value)
        )
    if spec.along is None:
        return points[0][1]
    if place is None or any(not at > 0 for at, _ in points):
        return f"no {spec.along}"
    return interpolated(sorted(points), place, spec.along)


def interpolated(points: Sequence[tuple[float, float]], place: float, along: str) -> float | str:
    """The value at `place` on straight lines between points over the logarithm of the first coordinate; no further.

    Args:
        points: (place, value) by place, all above 0.
    """
    if not points[0][0] * (1 - 1e-9) <= place <= points[-1][0] * (1 + 1e-9):
        return f"{along} is {'less' if place < points[0][0] else 'more'} than that of the rows to compare with"
    for (left, low), (right, high) in zip(points, points[1:], strict=False):
        if place <= right * (1 + 1e-9):
            share = math.log(place / left) / math.log(right / left) if right > left else 0.0
            return low + min(1.0, max(0.0, share)) * (high - low)
    return points[-1][1]

"""How numbers that were computed twice agree: bit for bit, to rounding, as two seeds would, or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

ROUNDING = 1e-6
"""Relative difference that another order of additions may make."""
SEEDS = 3.0
"""Standard deviations over seeds within which a training that went another way may end."""
IDENTICAL, ROUNDED, AS_SEEDS, DIFFERS, MISSING = "identical", "to rounding", "as another seed", "differs", "missing"
"""Degrees of agreement, from the best to the worst."""


@dataclass(frozen=True)
class Number:
    """One number, as it was given and as it was computed again."""

    name: str
    given: float
    again: float | None
    degree: str
    spread: float | None = None
    """Standard deviation of the number over the row's other seeds; None with fewer than two of them."""


def compare(
    given: Mapping[str, float],
    again: Mapping[str, float],
    seeds: Mapping[str, Sequence[float]],
    tolerance: float | None,
) -> Iterator[Number]:
    """Compare numbers by name, those of `given` in their order.

    Args:
        seeds: name -> the given number in the row's other seeds, from which its spread is taken.
        tolerance: relative difference up to which numbers agree; None: as two seeds of the row would.
    """
    for name, value in given.items():
        values = [one for one in seeds.get(name, ()) if math.isfinite(one)]
        spread = stdev(values) if len(values) > 1 else None
        yield Number(name, value, again.get(name), _degree(value, again.get(name), spread, tolerance), spread)


def _degree(given: float, again: float | None, spread: float | None, tolerance: float | None) -> str:
    if again is None:
        return MISSING
    if given == again or (math.isnan(given) and math.isnan(again)):
        return IDENTICAL
    difference = abs(given - again)
    if difference <= ROUNDING * max(abs(given), abs(again)):
        return ROUNDED
    if tolerance is not None:
        return f"within {tolerance:g}" if difference <= tolerance * abs(given) else DIFFERS
    return AS_SEEDS if spread is not None and difference <= SEEDS * spread else DIFFERS

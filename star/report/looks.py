"""Claims of an experiment that is given more seeds until they are decided: looks planned in advance share the 5% of error.

Lan and DeMets (Biometrika 1983) let the error be spent over the looks; the share spent at n of N seeds is
0.05 log(1 + (e - 1) n / N), which is near Pocock's. What a look may spend becomes a level for its intervals by integrating
over everything that the looks before it have left open (Armitage, McPherson and Rowe 1969), for normal estimates; the
intervals are t's. Each contrast is judged at the looks of its own rows and stays as it was first decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from star.report.block import Block
from star.report.claims import ClaimResult, judge, judge_part, judged_on, strictness, verdict_of
from star.report.contrasts import UNDECIDED, Contrast, contrasts_of
from star.report.evidence import Evidence
from star.report.stats import LEVEL
from star.spec.claims import Claim
from star.spec.seeds import seed_order

HOPELESS = 2
"""A claim that would need more than so many times the seeds of the last look is given no more."""
NODES = 128
"""Points of the Gauss-Legendre rule between two bounds."""


Place = tuple[int, str, tuple[str, ...]]


@dataclass(frozen=True)
class Look:
    """When a claim was decided, or how far it is."""

    number: int
    """1-based; 0 if not all rows have the seeds of the first look."""
    of: int
    seeds: int
    """Seeds of each row at this look."""
    level: float
    """Confidence level of its intervals."""


def judge_all(evidence: Evidence) -> list[ClaimResult]:
    """Judge all claims of an experiment, in order: once, or at the looks of `--seeds auto`."""
    experiment = evidence.experiment
    judged = judge_looks if experiment.seeding == "auto" else judge
    return [judged(claim, evidence) for claim in experiment.spec.claims]


@lru_cache(32)
def levels(looks: tuple[int, ...]) -> tuple[float, ...]:
    """Confidence level of the intervals at each look, so that all of them together err in 5% of cases.

    Args:
        looks: numbers of seeds, rising.
    """
    import numpy as np
    from scipy.stats import norm

    times = [count / looks[-1] for count in looks]
    spent = [(1 - LEVEL) * math.log(1 + (math.e - 1) * time) for time in times]
    points, weights = np.polynomial.legendre.leggauss(NODES)
    # a random walk that has stayed within the bounds so far: where it is, and with what density times weight
    at, density, found = np.zeros(1), np.ones(1), []
    for i, time in enumerate(times):
        step = math.sqrt(time - (times[i - 1] if i else 0.0))
        bound = _bound(at, density, step, spent[i] - (spent[i - 1] if i else 0.0))
        found.append(1 - 2 * float(norm.sf(bound / math.sqrt(time))))
        new = bound * points
        density = bound * weights * (density @ norm.pdf((new[None, :] - at[:, None]) / step) / step)
        at = new
    return tuple(found)


def _bound(at: Any, density: Any, step: float, share: float) -> float:
    """The bound that a walk, at `at` with this density, leaves in its next step with probability `share`."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def excess(bound: float) -> float:
        return float(density @ (norm.sf((bound - at) / step) + norm.sf((bound + at) / step))) - share

    return float(brentq(excess, 1e-9, 20.0))


def judge_looks(claim: Claim, evidence: Evidence) -> ClaimResult:
    """Judge a claim at each look that its rows have the seeds for, until it is decided."""
    spec = evidence.experiment.spec
    looks = tuple(spec.looks)
    method = claim.interval or spec.interval
    first = set(seed_order(spec, looks[0]))
    decided: dict[Place, Contrast] = {}
    held: dict[Place, Contrast] = {}
    found: ClaimResult | None = None
    for number, (seeds, level) in enumerate(zip(looks, levels(looks), strict=True), 1):
        then = evidence.up_to(seed_order(spec, seeds))
        parts = _placed(claim, then)
        for part in parts.values():
            part.block = _of_the_look(part, first)
        ready = {place: part for place, part in parts.items() if place not in decided and _is_ready(part, seeds)}
        if not ready:
            continue
        strict = strictness(list(parts.values()), level)
        for part in ready.values():
            judge_part(part, method, level, strict)
            part.look = number
        # one whose rows have not the seeds of this look is as the last look that it reached left it
        held = {place: decided.get(place) or ready.get(place) or held.get(place, part) for place, part in parts.items()}
        decided |= {place: part for place, part in ready.items() if part.verdict != UNDECIDED}
        found = verdict_of(claim, list(held.values()))
        found.look = Look(number, len(looks), seeds, level)
        if found.verdict != UNDECIDED:
            break
    if found is None:
        found = verdict_of(claim, list(_placed(claim, evidence).values()))
        found.look = Look(0, len(looks), looks[0], levels(looks)[0])
    found.judged_on = judged_on(claim, evidence)
    return found


def _placed(claim: Claim, evidence: Evidence) -> dict[Place, Contrast]:
    """A claim's contrasts by predicate, metric and rows: seeds that run longer give a whole curve more of them."""
    return {
        (i, part.metric, part.rows): part
        for i, predicate in enumerate(claim.that)
        for part in contrasts_of(predicate, evidence)
    }


def _of_the_look(part: Contrast, first: set[int]) -> Block | None:
    """The block of a contrast at a look: its own rows as they were then, the others with the seeds of the first look alone.

    What other claims add to the others later must not change what this look has said.
    """
    if part.block is None:
        return None
    own = {sample.row for sample in part.samples}
    rows = {
        row: values if row in own else {seed: value for seed, value in values.items() if seed in first}
        for row, values in part.block.values.items()
    }
    return Block({row: values for row, values in rows.items() if values})


def _is_ready(part: Contrast, seeds: int) -> bool:
    """Whether all rows of a contrast have the seeds of a look; a row without a seed, such as given images, never has more."""
    return not part.missing and all(len(sample.values) >= seeds for sample in part.samples)


def open_parts(found: ClaimResult) -> list[Contrast]:
    """Contrasts of an open claim that would likely decide it: the one that contradicts it soonest, or else all undecided ones.

    The latter in the order of the seeds that they need, most first: where the weakest link does not hold, the others need
    no seeds.
    """
    wanted = [part for part in found.parts if part.decides and part.verdict == UNDECIDED and part.samples]
    wrong = [part for part in wanted if part.seeds and part.found and part.found.estimate < part.bound]
    if wrong:
        return [min(wrong, key=lambda part: part.seeds or 0)]
    return sorted(wanted, key=lambda part: -(part.seeds or math.inf))


def open_rows(found: ClaimResult) -> list[str]:
    """Rows that get more seeds next for an open claim: those of the first of its `open_parts`."""
    return [sample.row for part in open_parts(found)[:1] for sample in part.samples]


def next_look(found: ClaimResult, looks: Sequence[int]) -> int | None:
    """Seeds of the next look at an open claim; None if it is decided, was looked at last, or is given no more."""
    parts = open_parts(found)
    if found.verdict != UNDECIDED or not parts or parts[0].look == len(looks) or is_hopeless(found, looks):
        return None
    return looks[parts[0].look]


def is_hopeless(found: ClaimResult, looks: Sequence[int]) -> bool:
    """Whether an open claim, after two looks or more, would need more than HOPELESS times the seeds of the last look."""
    parts = open_parts(found)
    if found.verdict != UNDECIDED or not parts or parts[0].look < 2:
        return False
    return (parts[0].seeds or math.inf) > HOPELESS * looks[-1]

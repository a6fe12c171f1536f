"""Which statistics an interval is made with: what the experiment asks for, or why it cannot be used and what is instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from star.report.block import FITS_ABOVE, Block
from star.report.stats import LEVEL, Estimate, Interval, Sample, bootstrap, bootstrap_p, paired, seeds_to_decide, welch

METHODS = ("welch", "paired", "block")
NAMES = {"welch": "Welch", "paired": "paired", "block": "block", "bootstrap": "bootstrap"}
"""Method -> its name in a sentence."""


@dataclass(frozen=True)
class Judge:
    """The method that is used for one contrast."""

    method: str
    samples: Sequence[Sample]
    block: Block | None = None
    instead_of: str = ""
    """The method that was asked for, if it cannot be used."""
    why: str = ""
    """Why it cannot be used."""

    def estimate(self) -> Estimate:
        """The contrast with its standard error; of a bootstrap, Welch's."""
        if self.method == "block":
            assert self.block is not None
            return self.block.estimate(weights_of(self.samples))
        return paired(self.samples) if self.method == "paired" else welch(self.samples)

    def interval(self, level: float = LEVEL) -> Interval:
        """The contrast's two-sided interval."""
        return bootstrap(self.samples, level) if self.method == "bootstrap" else self.estimate().interval(level)

    def p(self) -> float | None:
        """Two-sided p of the hypothesis that the contrast is 0; None where the interval has no bounds."""
        return bootstrap_p(self.samples) if self.method == "bootstrap" else self.estimate().p()

    def seeds(self, distance: float, level: float = LEVEL) -> int | None:
        """Seeds per row that would likely show that the contrast is `distance` away from a number; None if unknown."""
        return seeds_to_decide(self.samples, distance, level, self.method, self.block)

    @property
    def told(self) -> str:
        """What was used in place of what was asked for, and why; empty if nothing was."""
        return f"{NAMES[self.method]} in place of {self.instead_of}: {self.why}" if self.instead_of else ""


def judge_by(asked: str, samples: Sequence[Sample], block: Block | None = None) -> Judge:
    """Choose the method for a contrast: `asked`, or a simpler one if its values do not allow it.

    `block` becomes `welch` where rows may spread unequally, nothing can tell, or seeds do not connect them; with fewer than three
    rows in the block, or weights that do not sum to 0, it becomes `paired`. `paired` becomes `welch` with fewer than two common
    seeds. A single row is judged by `welch` in place of both, which `told` does not mention.

    Args:
        asked: `welch`, `paired`, `block` or `bootstrap`.
        block: the values of all rows that were measured like these, for `block`.
    """
    if asked in ("welch", "bootstrap") or len(samples) == 1:
        return Judge("bootstrap" if asked == "bootstrap" else "welch", samples)
    why = ""
    if asked == "block":
        if _seeds_cancel(samples) and block is not None and len(block.values) > 2:
            why = _obstacle(samples, block)
            return Judge("welch", samples, None, asked, why) if why else Judge("block", samples, block)
        why = "it needs three rows, whose weights sum to 0"
    if len(set.intersection(*(set(sample.seeds) for sample in samples))) < 2:
        return Judge("welch", samples, None, asked, "fewer than two seeds are common to the rows")
    return Judge("paired", samples, None, asked if why else "", why)


def _seeds_cancel(samples: Sequence[Sample]) -> bool:
    return abs(math.fsum(sample.weight for sample in samples)) < 1e-9


def _obstacle(samples: Sequence[Sample], block: Block) -> str:
    """Why the block model cannot be used; empty if it can."""
    fits = block.fits(weights_of(samples))
    if fits is None:
        return "too few values to check that rows spread equally"
    if fits <= FITS_ABOVE:
        return "these rows may spread more than the others"
    try:
        block.estimate(weights_of(samples))
    except ValueError as error:
        return str(error)
    return ""


def weights_of(samples: Sequence[Sample]) -> dict[str, float]:
    """Row -> weight of a contrast."""
    weights: dict[str, float] = {}
    for sample in samples:
        weights[sample.row] = weights.get(sample.row, 0.0) + sample.weight
    return weights

"""The block model of a table: value = row + seed + chance, with the same spread of chance in all rows.

Runs of one seed share initial weights, order and random numbers, so what a seed adds to all rows cancels in a difference,
and all rows together estimate one spread. That decides more than two rows alone can, and is wrong where rows spread
unequally: `equal_spread` is to be looked at first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import Any

from star.report.stats import Estimate

DRAWS = 2000
"""Random tables that a check of equal spread compares with."""
EQUAL_ABOVE = 0.2
"""The block model is used where the check of equal spread has a larger p. A check finds little in few seeds, so the bound
is generous to the doubt: tests/report/test_null_tables.py measures what it lets through."""


@dataclass(frozen=True)
class Block:
    """One metric's values of all rows and seeds. A row may lack seeds that others have."""

    values: Mapping[str, Mapping[int, float]]
    """Row -> seed -> value; at least two rows, each with a seed that another row has too."""

    def estimate(self, weights: Mapping[str, float]) -> Estimate:
        """Estimate sum_i w_i row_i by least squares.

        Raises:
            ValueError: seeds do not cancel: the weights do not sum to 0, or no seeds connect the rows.
        """
        import numpy as np

        wanted = np.zeros(self._design.shape[1])
        for row, weight in weights.items():
            wanted[self.rows.index(row)] += weight
        if not np.allclose(wanted @ self._inverse @ self._design, wanted, atol=1e-9 * abs(wanted).max()):
            raise ValueError("seeds do not cancel in this contrast")
        value = float(wanted @ self._inverse @ self._y)
        if not self.freedom or not self.spread:
            return Estimate(value)
        share = float(np.square(wanted @ self._inverse).sum())
        return Estimate(value, self.spread * math.sqrt(share), self.freedom)

    @cached_property
    def rows(self) -> list[str]:
        """Labels of the rows."""
        return list(self.values)

    @cached_property
    def freedom(self) -> int:
        """Degrees of freedom of the spread: values, minus rows, minus seeds, plus one (more if seeds do not connect)."""
        import numpy as np

        return len(self._y) - int(np.linalg.matrix_rank(self._design))

    @cached_property
    def spread(self) -> float:
        """The standard deviation of chance, common to all rows; 0 if the values leave none, or nothing to tell it by."""
        residual = self._residuals @ self._y
        size = float(abs(self._y).max()) or 1.0
        found = math.sqrt(float(residual @ residual) / self.freedom) if self.freedom else 0.0
        return found if found > 1e-12 * size else 0.0

    @cached_property
    def correlation(self) -> float | None:
        """Mean correlation between two rows over the seeds that both have, at least three; None if no pair has a spread."""
        found = []
        for first, second in combinations(self.rows, 2):
            both = sorted(self.values[first].keys() & self.values[second].keys())
            value = _correlation(*([self.values[row][seed] for seed in both] for row in (first, second)))
            found += [] if value is None else [value]
        return fmean(found) if found else None

    @cached_property
    def equal_spread(self) -> float | None:
        """p of the hypothesis that all rows spread equally, judged by the one that spreads most; None if nothing can tell.

        The largest share of one row in the residual variance (Cochran's C, for any gaps) against normal tables of this
        shape, drawn with a fixed random seed.
        """
        import numpy as np

        if self.freedom < 2 or not self.spread:
            return None
        expected = self._by_row @ np.diag(self._residuals)
        told = expected > 0.1
        if told.sum() < 2:
            return None

        def largest(residuals: Any) -> Any:
            variances = (self._by_row @ np.square(residuals))[told] / expected[told, None]
            return variances.max(0) / (np.square(residuals).sum(0) / self.freedom)

        null = largest(self._residuals @ np.random.default_rng(0).normal(size=(len(self._y), DRAWS)))
        seen = largest((self._residuals @ self._y)[:, None])
        return float(1 + (null >= seen).sum()) / (1 + DRAWS)

    @cached_property
    def is_sound(self) -> bool:
        """Whether the check of equal spread lets the model be used."""
        return self.equal_spread is not None and self.equal_spread > EQUAL_ABOVE

    @cached_property
    def _cells(self) -> list[tuple[int, int, float]]:
        return [(i, seed, value) for i, row in enumerate(self.rows) for seed, value in self.values[row].items()]

    @cached_property
    def _y(self) -> Any:
        import numpy as np

        return np.array([value for _, _, value in self._cells])

    @cached_property
    def _design(self) -> Any:
        import numpy as np

        seeds = sorted({seed for _, seed, _ in self._cells})
        design = np.zeros((len(self._cells), len(self.rows) + len(seeds)))
        for cell, (row, seed, _) in enumerate(self._cells):
            design[cell, row] = design[cell, len(self.rows) + seeds.index(seed)] = 1.0
        return design

    @cached_property
    def _inverse(self) -> Any:
        import numpy as np

        return np.linalg.pinv(self._design)

    @cached_property
    def _residuals(self) -> Any:
        import numpy as np

        return np.eye(len(self._y)) - self._design @ self._inverse

    @cached_property
    def _by_row(self) -> Any:
        return (self._design[:, : len(self.rows)]).T


def _correlation(first: list[float], second: list[float]) -> float | None:
    import numpy as np

    if len(first) < 3 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(np.corrcoef(first, second)[0, 1])

"""The block model of a table: value = row + seed + chance, with the same spread of chance in all rows.

Runs of one seed share initial weights, order and random numbers, so what a seed adds to all rows cancels in a difference,
and all rows together estimate one spread. That decides more than two rows alone can, and is wrong where rows spread
unequally: `Block.fits` is to be asked first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any, TypeVar

from star.report.stats import Estimate

Row = TypeVar("Row")
DRAWS = 2000
"""Random tables that a check of equal spread compares with."""
PAIRS, MANY = 200, 200
"""Pairs of rows that typical numbers are taken from; of more rows, neighbours alone are paired."""
FITS_ABOVE = 0.4
"""The block model judges a contrast whose `Block.fits` is larger. Few seeds hide much, so the doubt decides: at 0.2, a row
that spreads three times as much as the others would make 7% of the verdicts on equal rows wrong; at 0.4, 5%
(tests/report/test_null_tables.py)."""


class _Design:
    """Which row and seed each value is of, and what follows from that alone.

    Args:
        cells: (index of the row, seed) of each value.
    """

    def __init__(self, cells: tuple[tuple[int, int], ...]) -> None:
        import numpy as np

        seeds = sorted({seed for _, seed in cells})
        self.rows = 1 + max(row for row, _ in cells)
        self.matrix = np.zeros((len(cells), self.rows + len(seeds)))
        for cell, (row, seed) in enumerate(cells):
            self.matrix[cell, row] = self.matrix[cell, self.rows + seeds.index(seed)] = 1.0
        self.inverse = np.linalg.pinv(self.matrix)
        self.residuals = np.eye(len(cells)) - self.matrix @ self.inverse
        self.freedom = len(cells) - int(np.linalg.matrix_rank(self.matrix))
        self.expected = self.matrix[:, : self.rows].T @ np.diag(self.residuals)
        self.told = self.expected > 0.1
        """Rows with enough values to say how much they spread."""

    @cached_property
    def null(self) -> Any:
        """`shares` of normal tables of this shape, drawn with a fixed random seed."""
        import numpy as np

        return self.shares(np.random.default_rng(0).normal(size=(len(self.matrix), DRAWS)))

    def shares(self, values: Any) -> Any:
        """(rows, tables): the residual variance of each row over that of all, for values (N, tables); 1 where none tells."""
        import numpy as np

        squares = np.square(self.residuals @ values)
        by_row = self.matrix[:, : self.rows].T @ squares
        expected = np.where(self.told, self.expected, 1.0)[:, None]
        return np.where(self.told[:, None], by_row / expected / (squares.sum(0) / self.freedom), 1.0)


_design = lru_cache(256)(_Design)


@dataclass(frozen=True)
class Block:
    """One metric's values of all rows and seeds. A row may lack seeds that others have."""

    values: Mapping[str, Mapping[int, float]]
    """Row -> seed -> value; at least two rows."""

    def estimate(self, weights: Mapping[str, float]) -> Estimate:
        """Estimate sum_i w_i row_i by least squares.

        Raises:
            ValueError: seeds do not cancel: the weights do not sum to 0, or no seeds connect the rows.
        """
        import numpy as np

        design = self._design
        wanted = np.zeros(design.matrix.shape[1])
        for row, weight in weights.items():
            wanted[self.rows.index(row)] += weight
        by_value = wanted @ design.inverse
        if not np.allclose(by_value @ design.matrix, wanted, atol=1e-9 * abs(wanted).max()):
            raise ValueError("seeds do not cancel in this contrast")
        value = float(by_value @ self._y)
        if not self.spread:
            return Estimate(value)
        return Estimate(value, self.spread * math.sqrt(float(np.square(by_value).sum())), design.freedom)

    @cached_property
    def rows(self) -> list[str]:
        """Labels of the rows."""
        return list(self.values)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the spread: values, minus rows, minus seeds, plus one (more if seeds do not connect)."""
        return self._design.freedom

    @cached_property
    def spread(self) -> float:
        """The standard deviation of chance, common to all rows; 0 if the values leave none, or nothing to tell it by."""
        residual = self._design.residuals @ self._y
        found = math.sqrt(float(residual @ residual) / self.freedom) if self.freedom else 0.0
        return found if found > 1e-12 * float(abs(self._y).max()) else 0.0

    @cached_property
    def correlation(self) -> float | None:
        """Mean correlation between two rows over the seeds that both have, at least three; None if no pair has a spread."""
        found = []
        for first, second in some_pairs(self.rows):
            both = sorted(self.values[first].keys() & self.values[second].keys())
            value = _correlation(*([self.values[row][seed] for seed in both] for row in (first, second)))
            found += [] if value is None else [value]
        return fmean(found) if found else None

    @cached_property
    def equal_spread(self) -> float | None:
        """p of the hypothesis that all rows spread equally, judged by the one that spreads most; None if nothing can tell.

        The largest share of one row in the residual variance (Cochran's C, for any gaps) against normal tables of this
        shape.
        """
        if not self._tells:
            return None
        return self._p(self._shares.max(0), self._design.null.max(0))

    def fits(self, weights: Mapping[str, float]) -> float | None:
        """p of the hypothesis that the rows of a contrast spread no more than all do; None if nothing can tell.

        What a contrast's own rows say of its variance, over what all rows say, against normal tables of this shape.
        """
        import numpy as np

        if not self._tells:
            return None
        squares = np.array([weights.get(row, 0.0) ** 2 for row in self.rows])
        return self._p(squares @ self._shares, squares @ self._design.null)

    @property
    def _tells(self) -> bool:
        return self.freedom > 1 and bool(self.spread) and int(self._design.told.sum()) > 1

    @cached_property
    def _shares(self) -> Any:
        return self._design.shares(self._y[:, None])

    @staticmethod
    def _p(seen: Any, null: Any) -> float:
        return float(1 + (null >= seen * (1 - 1e-12)).sum()) / (1 + DRAWS)

    @cached_property
    def _design(self) -> _Design:
        return _design(tuple((i, seed) for i, row in enumerate(self.rows) for seed in self.values[row]))

    @cached_property
    def _y(self) -> Any:
        import numpy as np

        return np.array([value for row in self.rows for value in self.values[row].values()])


def some_pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """All pairs of rows, or of neighbours alone from MANY rows on; evenly thinned where they are many, to fewer than 2 * PAIRS."""
    found = list(combinations(rows, 2)) if len(rows) < MANY else list(pairwise(rows))
    step = max(1, len(found) // PAIRS)
    return found[::step]


def _correlation(first: list[float], second: list[float]) -> float | None:
    import numpy as np

    if len(first) < 3 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(np.corrcoef(first, second)[0, 1])

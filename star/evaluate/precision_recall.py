"""Improved precision and recall (Kynkaanniemi et al. 2019): is a point inside some ball around a point of the other set?

A ball's radius is the distance to the k-th nearest neighbour in its own set; a point on its surface is inside. Float32
products with a bound on their rounding error decide nearly all pairs, and the rest is computed in float64: the result is that
of brute force in float64. Distances run in blocks, so memory does not grow with the square of the number of points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from star.errors import DataError
from star.evaluate.precise import full_float32

BLOCK = 1024
PAIRS = 4096
"""Distances computed in float64 at a time."""
MANY = 200_000
"""Open pairs that are kept for the end; sets of copies of one image would have N^2."""
SPARE = 12
"""Candidates for the k-th neighbour that are kept beyond k."""
TIE = 1e-12
"""Relative difference up to which a float64 distance equals a radius."""


@dataclass
class Manifold:
    """A set of N points and their balls."""

    points: Tensor
    """(N, D) float32."""
    radii: Tensor
    """(N,) float64: squared distance to the k-th nearest other point."""


def manifold(points: Tensor, neighbours: int) -> Manifold:
    """The balls of points (N, D).

    Raises:
        DataError: not more points than neighbours.
    """
    if len(points) <= neighbours:
        raise DataError(
            f"precision and recall with k = {neighbours} need at least {neighbours + 1} images in each set, not {len(points)}."
        )
    points = points.float()
    with full_float32():
        return Manifold(points, _radii(points, neighbours))


def precision_recall(reference: Manifold, generated: Manifold) -> tuple[float, float]:
    """(precision, recall): the share of generated points inside the reference's balls, and the other way round."""
    shift = reference.points.mean(0)
    ours, theirs = _Bounded.of(generated, shift), _Bounded.of(reference, shift)
    precise, recalled = _Inside(ours, theirs), _Inside(theirs, ours)
    with full_float32():
        for rows in _blocks(len(ours)):
            for columns in _blocks(len(theirs)):
                twice_dot = ours.points[rows] @ theirs.twice[columns].T
                precise.look(rows, columns, twice_dot)
                recalled.look(columns, rows, twice_dot.T)
    return precise.share(), recalled.share()


class _Bounded:
    """Points about a common centre with what bounds the error of their float32 products.

    With u = 2^-24 and c = (D + 16) u, the exact |a - b|^2 lies within c (|a|^2 + |b|^2) of |a|^2 + |b|^2 - fl(2 a.b): D u of it
    for the product in any order of summation, the rest for rounding the points, the norms and the comparison.
    """

    def __init__(self, original: Tensor, shift: Tensor, radii: Tensor | None = None) -> None:
        self.original, self.points = original, original - shift
        self.twice = self.points * 2
        self.norms = self.points.double().square().sum(1)
        self.c = (original.shape[1] + 16) * 2.0**-24
        self.radii = torch.zeros_like(self.norms) if radii is None else radii

    @classmethod
    def of(cls, side: Manifold, shift: Tensor) -> _Bounded:
        return cls(side.points, shift, side.radii)

    def __len__(self) -> int:
        return len(self.points)


class _Inside:
    """Which of `points` lie in a ball of `centres`.

    The exact squared distance is at most r_j if fl(2 a.b) - [(1 - c) |b_j|^2 - r_j] is at least (1 + c) |a_i|^2 + 2 c |b_j|^2, and
    more than r_j if it is less than (1 - c) |a_i|^2; so the largest of those numbers over j decides most i.
    """

    def __init__(self, points: _Bounded, centres: _Bounded) -> None:
        self.points, self.centres, c = points, centres, points.c
        self.columns = ((1 - c) * centres.norms - centres.radii).float()
        self.possible = ((1 - c) * points.norms).float()
        self.sure = ((1 + c) * points.norms + 2 * c * centres.norms.max()).float()
        self.inside = torch.zeros(len(points), dtype=torch.bool, device=points.points.device)
        self.open: list[Tensor] = []

    def look(self, rows: slice, columns: slice, twice_dot: Tensor) -> None:
        """One block of fl(2 a.b), (rows, columns)."""
        scores = twice_dot - self.columns[columns]
        best = scores.amax(1)
        self.inside[rows] |= best >= self.sure[rows]
        undecided = ((best >= self.possible[rows]) & ~self.inside[rows]).nonzero()[:, 0]
        pairs = (scores[undecided] >= self.possible[rows][undecided, None]).nonzero()
        self.open.append(torch.stack([undecided[pairs[:, 0]] + rows.start, pairs[:, 1] + columns.start], dim=1))
        if sum(map(len, self.open)) > MANY:
            self._settle()

    def share(self) -> float:
        """Of points that are inside."""
        self._settle()
        return self.inside.double().mean().item()

    def _settle(self) -> None:
        """Decide the open pairs in float64, one of each point at a time: most points need no second."""
        pairs, self.open = torch.cat(self.open), []
        pairs = pairs[pairs[:, 0].argsort(stable=True)]
        while len(pairs := pairs[~self.inside[pairs[:, 0]]]):
            first = torch.ones(len(pairs), dtype=torch.bool, device=pairs.device)
            first[1:] = pairs[1:, 0] != pairs[:-1, 0]
            tried, pairs = pairs[first], pairs[~first]
            distances = _exact(self.points.original, self.centres.original, tried)
            self.inside[tried[distances <= self.centres.radii[tried[:, 1]] * (1 + TIE), 0]] = True


def _radii(points: Tensor, neighbours: int) -> Tensor:
    bounded = _Bounded(points, points.mean(0))
    lowest = _Lowest(len(points), neighbours + SPARE, points.device)
    scaled = ((1 - bounded.c) * bounded.norms).float()
    for rows in _blocks(len(points)):
        for columns in _blocks(len(points), rows.start):  # distances are symmetric
            low = torch.addmm(scaled[columns], bounded.points[rows], bounded.twice[columns].T, alpha=-1)
            low += scaled[rows, None]
            if rows == columns:
                low.fill_diagonal_(torch.inf)
            else:
                lowest.look(columns, rows, low.T.contiguous())
            lowest.look(rows, columns, low)
    return _settled(bounded, lowest, neighbours)


class _Lowest:
    """For each point, the others with the smallest lower bounds of their squared distance, and those bounds."""

    def __init__(self, count: int, kept: int, device: torch.device) -> None:
        self.bounds = torch.full((count, kept), torch.inf, device=device)
        self.index = torch.zeros(count, kept, dtype=torch.long, device=device)

    def look(self, rows: slice, columns: slice, low: Tensor) -> None:
        """One block of lower bounds, (rows, columns)."""
        kept = self.bounds.shape[1]
        bounds, index = low.topk(min(kept, low.shape[1]), largest=False)
        bounds, index = (
            torch.cat([self.bounds[rows], bounds], 1),
            torch.cat([self.index[rows], index + columns.start], 1),
        )
        self.bounds[rows], order = bounds.topk(kept, largest=False)
        self.index[rows] = index.gather(1, order)


def _settled(bounded: _Bounded, lowest: _Lowest, neighbours: int) -> Tensor:
    """The k-th smallest distance of each row in float64, of the candidates that may be it."""
    norms = bounded.norms
    low = lowest.bounds.double()
    high = low + 2 * bounded.c * (norms[:, None] + norms[lowest.index])
    kth_low, kth_high = (bound.kthvalue(neighbours, dim=1).values[:, None] for bound in (low, high))
    certain = high < kth_low  # nearer than the k-th
    candidate = ~certain & (low <= kth_high) & low.isfinite()
    pairs = candidate.nonzero()
    exact = torch.full_like(low, torch.inf)
    exact[candidate] = _exact(
        bounded.original, bounded.original, torch.stack([pairs[:, 0], lowest.index[candidate]], dim=1)
    )
    exact[certain] = -torch.inf
    radii = exact.kthvalue(neighbours, dim=1).values
    # a point that was not kept may be as near, unless nothing can be nearer
    incomplete = (low[:, -1] <= kth_high[:, 0]) & low[:, -1].isfinite() & (radii > 0)
    everyone = torch.arange(len(norms), device=norms.device)
    for row in incomplete.nonzero()[:, 0].tolist():
        others = everyone[everyone != row]
        distances = _exact(
            bounded.original, bounded.original, torch.stack([torch.full_like(others, row), others], dim=1)
        )
        radii[row] = distances.kthvalue(neighbours).values
    return radii


def _exact(a: Tensor, b: Tensor, pairs: Tensor) -> Tensor:
    """Squared distances in float64 of a's and b's points with the indices `pairs` (P, 2)."""
    parts = [(a[part[:, 0]].double() - b[part[:, 1]].double()).square().sum(1) for part in pairs.split(PAIRS)]
    return torch.cat(parts)


def _blocks(count: int, first: int = 0) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, count)) for start in range(first, count, BLOCK))

"""Improved precision and recall (Kynkaanniemi et al. 2019): is a point inside some ball around a point of the other set?

A ball's radius is the distance to the k-th nearest neighbour in its own set; a point on its surface is inside. Float32
products with a bound on their rounding error decide nearly all pairs, and the rest is computed in float64: the result
equals that of brute force in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from star.errors import DataError
from star.evaluate.distances import blocks, clusters, exact, local, slack
from star.evaluate.precise import full_float32

SPARE = 12
"""Candidates for the k-th neighbour that are kept beyond k."""
CROWD = 32
"""Most open pairs of a point in a block that are decided one by one; points with more wait for products in float64."""
CLUSTER = 1024
"""Points of a cluster that are processed at a time."""
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
    """The balls around points (N, D).

    Raises:
        DataError: there are not more points than neighbours.
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
    ours, theirs = generated.points - shift, reference.points - shift
    precise, recalled = _Inside(generated, reference, shift), _Inside(reference, generated, shift)
    with full_float32():
        for columns in blocks(len(theirs)):
            twice = theirs[columns] * 2
            for rows in blocks(len(ours)):
                twice_dot = ours[rows] @ twice.T
                precise.look(rows, columns, twice_dot)
                recalled.look(columns, rows, twice_dot.T)
    return precise.share(), recalled.share()


class _Inside:
    """Which of `points` lie in a ball of `centres`.

    With c the slack of float32, the exact squared distance is at most r_j if fl(2 a.b) - [(1 - c) |b_j|^2 - r_j] is at
    least (1 + c) |a_i|^2 + 2 c |b_j|^2, and more than r_j if it is less than (1 - c) |a_i|^2; so the largest of those numbers
    over j decides most i.
    """

    def __init__(self, points: Manifold, centres: Manifold, shift: Tensor) -> None:
        self.points, self.centres = points.points, centres
        own, other = ((side.points - shift).double().square().sum(1) for side in (points, centres))
        c = slack(self.points.shape[1], torch.float32)
        self.columns = ((1 - c) * other - centres.radii).float()
        self.possible = ((1 - c) * own).float()
        self.sure = ((1 + c) * own + 2 * c * other.max()).float()
        self.inside = torch.zeros(len(own), dtype=torch.bool, device=own.device)
        self.crowded = torch.zeros_like(self.inside)
        self.open: list[Tensor] = []

    def look(self, rows: slice, columns: slice, twice_dot: Tensor) -> None:
        """Process one block of fl(2 a.b), (rows, columns)."""
        scores = twice_dot - self.columns[columns]
        best = scores.amax(1)
        self.inside[rows] |= best >= self.sure[rows]
        undecided = ((best >= self.possible[rows]) & ~self.inside[rows] & ~self.crowded[rows]).nonzero()[:, 0]
        possible = scores[undecided] >= self.possible[rows][undecided, None]
        crowd = possible.sum(1) > CROWD
        self.crowded[undecided[crowd] + rows.start] = True
        pairs = (possible & ~crowd[:, None]).nonzero()
        self.open.append(torch.stack([undecided[pairs[:, 0]] + rows.start, pairs[:, 1] + columns.start], dim=1))

    def share(self) -> float:
        """Return the share of points that lie inside the manifold, from 0 to 1."""
        self._settle(torch.cat(self.open))
        for members, pivot in clusters(self.points, (self.crowded & ~self.inside).nonzero()[:, 0]):
            for rows in members.split(CLUSTER):
                for columns in blocks(len(self.centres.points)):
                    rows = rows[~self.inside[rows]]
                    squared, bound = local(self.points[rows], self.centres.points[columns], pivot)
                    limits = self.centres.radii[columns]
                    self.inside[rows] |= (squared + bound <= limits).any(1)
                    pairs = (squared - bound <= limits * (1 + TIE)).nonzero()
                    self._settle(torch.stack([rows[pairs[:, 0]], pairs[:, 1] + columns.start], dim=1))
        return self.inside.double().mean().item()

    def _settle(self, pairs: Tensor) -> None:
        """Decide open pairs in float64, one pair of each point at a time: most points need no second."""
        pairs = pairs[pairs[:, 0].argsort(stable=True)]
        while len(pairs := pairs[~self.inside[pairs[:, 0]]]):
            first = torch.ones(len(pairs), dtype=torch.bool, device=pairs.device)
            first[1:] = pairs[1:, 0] != pairs[:-1, 0]
            tried, pairs = pairs[first], pairs[~first]
            distances = exact(self.points, self.centres.points, tried)
            self.inside[tried[distances <= self.centres.radii[tried[:, 1]] * (1 + TIE), 0]] = True


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """Squared distances (N,) to the k-th nearest other point.

    Float32 products decide most. Points with many near others are computed by float64 products about a point nearby;
    what that leaves open is computed pair by pair.
    """
    everyone = torch.arange(len(points), device=points.device)
    moved = points - points.mean(0)
    norms = moved.double().square().sum(1)
    c = slack(points.shape[1], torch.float32)
    lowest = _Lowest(len(points), neighbours + SPARE, points)
    scaled = ((1 - c) * norms).float()
    for rows in blocks(len(points)):
        for columns in blocks(len(points), rows.start):  # distances are symmetric
            low = torch.addmm(scaled[columns], moved[rows], moved[columns].T, alpha=-2)
            low += scaled[rows, None]
            if rows == columns:
                low.fill_diagonal_(torch.inf)
            else:
                lowest.look(columns, rows, low.T.contiguous())
            lowest.look(rows, columns, low)
    width = 2 * c * (norms[:, None] + norms[lowest.index])
    radii, crowded = _kth(points, everyone, lowest, width, neighbours)
    for members, pivot in clusters(points, everyone[crowded]):
        for rows in members.split(CLUSTER):
            radii[rows] = _local_radii(points, rows, pivot, neighbours)
    return radii


def _local_radii(points: Tensor, rows: Tensor, pivot: Tensor, neighbours: int) -> Tensor:
    lowest = _Lowest(len(rows), neighbours + SPARE, pivot)
    for columns in blocks(len(points)):
        squared, bound = local(points[rows], points[columns], pivot)
        low = squared - bound
        own = (rows >= columns.start) & (rows < columns.stop)
        low[own, rows[own] - columns.start] = torch.inf
        lowest.look(slice(None), columns, low)
    moved = points.double() - pivot
    norms = moved.square().sum(1)
    width = 2 * slack(points.shape[1], torch.float64) * (norms[rows, None] + norms[lowest.index])
    radii, crowded = _kth(points, rows, lowest, width, neighbours)
    places = crowded.nonzero()[:, 0]
    kept = torch.stack([rows[places].repeat_interleave(lowest.index.shape[1]), lowest.index[places].flatten()], dim=1)
    nearest = exact(points, points, kept).view(len(places), lowest.index.shape[1]).kthvalue(neighbours, dim=1).values
    radii[places] = 0  # copies: nothing can be nearer
    for place in places[nearest > 0].tolist():
        others = torch.arange(len(points), device=points.device)
        others = others[others != rows[place]]
        pairs = torch.stack([rows[place].expand(len(others)), others], dim=1)
        radii[place] = exact(points, points, pairs).kthvalue(neighbours).values
    return radii


class _Lowest:
    """For each point, the others with the smallest lower bounds of their squared distance, and those bounds."""

    def __init__(self, count: int, kept: int, like: Tensor) -> None:
        self.bounds = torch.full((count, kept), torch.inf, dtype=like.dtype, device=like.device)
        self.index = torch.zeros(count, kept, dtype=torch.long, device=like.device)

    def look(self, rows: slice, columns: slice, low: Tensor) -> None:
        """Process one block of lower bounds, (rows, columns)."""
        kept = self.bounds.shape[1]
        bounds, index = low.topk(min(kept, low.shape[1]), largest=False)
        bounds, index = (
            torch.cat([self.bounds[rows], bounds], 1),
            torch.cat([self.index[rows], index + columns.start], 1),
        )
        self.bounds[rows], order = bounds.topk(kept, largest=False)
        self.index[rows] = index.gather(1, order)


def _kth(points: Tensor, rows: Tensor, lowest: _Lowest, width: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """The k-th smallest squared distance of each row, in float64, and a mask of the rows where it is not known.

    Only candidates that may be the k-th are computed. It is not known where a point that was not kept may be as near.

    Args:
        width: upper minus lower bound of each kept pair.
    """
    low = lowest.bounds.double()
    high = low + width
    kth_low, kth_high = (bound.kthvalue(neighbours, dim=1).values[:, None] for bound in (low, high))
    certain = high < kth_low  # nearer than the k-th
    crowded = (low[:, -1:] <= kth_high) & low[:, -1:].isfinite() & (kth_high > 0)
    candidate = ~certain & (low <= kth_high) & low.isfinite() & ~crowded
    found = torch.full_like(low, torch.inf)
    pairs = torch.stack([rows[candidate.nonzero()[:, 0]], lowest.index[candidate]], dim=1)
    found[candidate] = exact(points, points, pairs)
    found[certain] = -torch.inf
    return found.kthvalue(neighbours, dim=1).values, crowded[:, 0]

"""Squared distances between many points: fast ones with an error bound, and exact ones where the bound is too wide.

Points are (N, D) float32. Everything runs in blocks: memory does not grow with N^2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1024
PAIRS = 4096
"""Pairs of points whose distances are computed at a time, in float64."""


def slack(dim: int, dtype: torch.dtype) -> float:
    """The factor c such that the exact |a - b|^2 lies within c (|a|^2 + |b|^2) of |a|^2 + |b|^2 - fl(2 a.b).

    With u the unit roundoff, D u of c covers the product, in any order of summation; the rest covers the rounding of
    the points, the norms and the comparison.
    """
    return (dim + 16) * torch.finfo(dtype).eps / 2


def exact(a: Tensor, b: Tensor, pairs: Tensor) -> Tensor:
    """Squared distances (P,) in float64 between the points of a and b with the indices `pairs` (P, 2)."""
    parts = [(a[part[:, 0]].double() - b[part[:, 1]].double()).square().sum(1) for part in pairs.split(PAIRS)]
    return torch.cat(parts)


def blocks(count: int, first: int = 0) -> Iterator[slice]:
    """Slices of at most BLOCK rows, from `first` up to `count`."""
    return (slice(start, min(start + BLOCK, count)) for start in range(first, count, BLOCK))


def clusters(points: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Split `rows` into groups of points that lie close together; yield (rows of the group, one of its points).

    Dot products about that point resolve distances that products about a common centre cannot: nearly identical images
    have features that differ only in their last bits.
    """
    if not len(rows):
        return
    centre = points.double().mean(0)
    spread = torch.cat([(points[part].double() - centre).square().sum(1) for part in rows.split(PAIRS)]).amax()
    while len(rows):
        pivot = points[rows[0]].double()
        near = torch.cat([(points[part].double() - pivot).square().sum(1) for part in rows.split(PAIRS)])
        together = near <= spread / 64
        yield rows[together], pivot
        rows = rows[~together]


def local(points: Tensor, others: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (A, B) in float64 by dot products about `pivot`, and the bounds (A, B) of their errors."""
    a, b = points.double() - pivot, others.double() - pivot
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    return torch.addmm(norms, a, b.T, alpha=-2), norms * slack(a.shape[1], torch.float64)

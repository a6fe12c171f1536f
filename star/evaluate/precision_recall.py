"""Improved precision and recall: is a point inside some ball around a point of the other set?

A ball's radius is the distance to the k-th nearest neighbour in its own set. Distances run in blocks, so memory does
not grow with the square of the number of images.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2048


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(A, B) squared Euclidean distances, not negative."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)


def radii(features: Tensor, neighbours: int) -> Tensor:
    """Squared distance (N,) from each point to its k-th nearest other point."""
    result = []
    for rows in features.split(BLOCK):
        smallest = torch.empty(len(rows), 0, dtype=features.dtype, device=features.device)
        for columns in features.split(BLOCK):
            candidates = torch.cat([smallest, squared_distances(rows, columns)], dim=1)
            smallest = candidates.topk(min(neighbours + 1, candidates.shape[1]), largest=False).values
        result.append(smallest[:, -1])  # the point itself is the first of the k + 1
    return torch.cat(result)


def share_inside(points: Tensor, centres: Tensor, centre_radii: Tensor) -> float:
    """Share of points that lie in at least one ball."""
    inside = 0
    for rows in points.split(BLOCK):
        hit = torch.zeros(len(rows), dtype=torch.bool, device=points.device)
        for columns, limits in zip(centres.split(BLOCK), centre_radii.split(BLOCK), strict=True):
            hit |= (squared_distances(rows, columns) <= limits).any(1)
        inside += int(hit.sum())
    return inside / len(points)


def precision_recall(
    reference: Tensor, generated: Tensor, reference_radii: Tensor, neighbours: int
) -> tuple[float, float]:
    """Precision: generated inside the reference's balls. Recall: reference inside the generated ones'."""
    precision = share_inside(generated, reference, reference_radii)
    return precision, share_inside(reference, generated, radii(generated, neighbours))

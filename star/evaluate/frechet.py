"""Moments of features, computed in one pass over them, and the Frechet distance between two sets; all in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from star.errors import DataError

Array = NDArray[np.float64]
BLOCK = 1024
"""Rows added to the moments at a time: few large products, and the same ones whatever the batch size."""
DOUBT = 1e-8
"""Share of the total variance up to which rounding in the fast formula is accepted."""


@dataclass
class Moments:
    """Mean (D,) and covariance (D, D; divisor N - 1) of features."""

    mean: Array
    covariance: Array


class RunningMoments:
    """Mean and covariance of rows that come in batches; memory does not grow with their number.

    Args:
        dim: D.
        name: of the features, for error messages.
        first: number of the first image, for error messages.
    """

    def __init__(self, dim: int, name: str, device: torch.device | None = None, first: int = 0) -> None:
        self.name, self.seen = name, first
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        """Sum of outer products of deviations from the mean."""
        self._waiting: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Add features (B, D).

        Raises:
            DataError: one of them is NaN or infinite.
        """
        if not bool(rows.isfinite().all()):
            bad = self.seen + int((~rows.isfinite()).any(1).nonzero()[0, 0])
            raise DataError(
                f"the {self.name} features of image {bad} (from 0) are not finite numbers; nothing can be compared."
            )
        self.seen += len(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= BLOCK:
            *whole, rest = torch.cat(self._waiting).split(BLOCK)
            if len(rest) == BLOCK:
                whole, rest = [*whole, rest], rest[:0]
            self._waiting = [rest]
            for block in whole:
                self._take(block)

    def _take(self, block: Tensor) -> None:
        wide = block.double()
        mean = wide.mean(0)
        deviations = wide - mean
        count = torch.full_like(self.count, len(block))
        self._join(count, mean, deviations.T @ deviations)

    def _join(self, count: Tensor, mean: Tensor, scatter: Tensor) -> None:
        """Add the moments of another set (Chan, Golub and LeVeque 1979)."""
        both = self.count + count
        offset = mean - self.mean
        self.scatter += scatter + torch.outer(offset, offset) * (self.count * count / both)
        self.mean += offset * (count / both)
        self.count = both

    def settle(self) -> None:
        """Add the rows that are waiting for a full block."""
        waiting, self._waiting = self._waiting, []
        if sum(map(len, waiting)):
            self._take(torch.cat(waiting))

    def merge(self, other: RunningMoments) -> None:
        """Add the moments of another object, such as another rank's."""
        self.settle()
        other.settle()
        if other.count > 0:
            self._join(other.count, other.mean, other.scatter)
            self.seen += other.seen

    def result(self) -> Moments:
        """The moments of all rows that were added.

        Raises:
            DataError: there are fewer than two rows, which have no covariance.
        """
        self.settle()
        if self.count < 2:
            raise DataError(f"{int(self.count)} images have no covariance; give at least 2, better thousands.")
        return Moments(self.mean.cpu().numpy(), (self.scatter / (self.count - 1)).cpu().numpy())


def frechet_distance(reference: Moments, generated: Moments) -> float:
    """The squared Frechet distance of two Gaussians, |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), as FID (Heusel et al. 2017).

    At least 0: what rounding takes below it is cut.

    Raises:
        DataError: the moments differ in dimension, are not finite, or hold a matrix that is not a covariance; or the
            distance is not finite.
    """
    if reference.mean.shape != generated.mean.shape:
        raise DataError(
            f"moments of {len(reference.mean)} and of {len(generated.mean)} features cannot be compared: "
            "they come from different extractors."
        )
    if not all(np.isfinite(part).all() for side in (reference, generated) for part in (side.mean, side.covariance)):
        raise DataError("the moments hold values that are not finite numbers; nothing can be compared.")
    offset = reference.mean - generated.mean
    variance = np.trace(reference.covariance) + np.trace(generated.covariance)
    with np.errstate(over="ignore"):
        found = float(offset @ offset + variance - 2 * _trace_of_root(reference.covariance, generated.covariance))
    if not np.isfinite(found):
        raise DataError("the moments are too far apart for a number; are they of the same features?")
    return max(found, 0.0)  # rounding leaves equal sets slightly below


def _trace_of_root(first: Array, second: Array) -> float:
    """tr (S1 S2)^(1/2): with S1 = A A^T and S2 = B B^T, the sum of the singular values of A^T B.

    Their squares are the eigenvalues of a symmetric matrix, which are ten times faster to compute. Rounding changes
    each by about eps * the largest, so the roots of tiny ones are wrong; if that could matter (DOUBT), the singular
    values are computed instead.
    """
    product = _factor(first).T @ _factor(second)
    small = product if product.shape[0] <= product.shape[1] else product.T
    if not len(small):
        return 0.0
    eigenvalues = _solved("eigvalsh", small @ small.T)
    noise = 4 * torch.finfo(torch.float64).eps * eigenvalues[-1].clamp(min=0)
    roots = eigenvalues.clamp(min=0).sqrt()
    wrong = torch.minimum(noise.sqrt(), noise / (2 * roots).clamp(min=1e-300)).sum()
    if wrong <= DOUBT * (np.trace(first) + np.trace(second)):
        return float(roots.sum())
    return float(_solved("svdvals", product).sum())


def _factor(covariance: Array) -> Tensor:
    """A (D, rank) with covariance = A A^T, by a Cholesky factorisation with the largest pivot first, up to the rank.

    Covariances of fewer images than dimensions are singular.
    """
    lower, order, rank, _ = dpstrf(covariance, lower=1)
    factor = np.zeros((len(covariance), rank))
    factor[order - 1] = np.tril(lower)[:, :rank]
    trace = np.trace(covariance)
    if abs(np.square(factor).sum() - trace) > 1e-3 * trace:
        raise DataError("the moments hold a covariance with negative variances; it is none.")
    return torch.from_numpy(factor)


def _solved(problem: str, matrix: Tensor) -> Tensor:
    """torch.linalg's result, or NumPy's if it fails: MKL did not converge for a matrix that was mostly zero."""
    try:
        found: Tensor = getattr(torch.linalg, problem)(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # there, though not exported
        found = torch.from_numpy(getattr(np.linalg, problem)(matrix.numpy()))
    return found

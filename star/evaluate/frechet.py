"""The Frechet distance between two sets of features, and the inception score; float64 throughout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Moments:
    """Mean (D,) and covariance (D, D; divisor N - 1) of features."""

    mean: Array
    covariance: Array


def moments(features: NDArray[np.floating]) -> Moments:
    """Of features (N, D); N must be at least 2."""
    wide = features.astype(np.float64)
    return Moments(wide.mean(0), np.cov(wide, rowvar=False).reshape(wide.shape[1], wide.shape[1]))


def frechet_distance(reference: Moments, generated: Moments) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    With S1 = L L^T the eigenvalues of S1 S2 are those of the symmetric L^T S2 L, so no matrix square root is needed and
    none of them is complex.
    """
    offset = reference.mean - generated.mean
    root = _factor(reference.covariance)
    eigenvalues = np.linalg.eigvalsh(root.T @ generated.covariance @ root)
    cross = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return float(offset @ offset + np.trace(reference.covariance) + np.trace(generated.covariance) - 2 * cross)


def _factor(covariance: Array) -> Array:
    """L with covariance = L L^T; by eigenvectors where the matrix is singular."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.clip(values, 0, None))


def inception_score(probabilities: NDArray[np.floating], splits: int) -> float:
    """exp of the mean KL divergence from p(y) to p(y|x) over (N, classes), averaged over equal unshuffled splits."""
    scores = []
    for part in np.array_split(probabilities.astype(np.float64), splits):
        log_ratio = np.log(np.clip(part, 1e-300, None)) - np.log(np.clip(part.mean(0), 1e-300, None))
        scores.append(np.exp((part * log_ratio).sum(1).mean()))
    return float(np.mean(scores))

"""Moments in one pass and the Frechet distance, against NumPy, SciPy's matrix square root and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from star.errors import DataError
from star.evaluate.frechet import BLOCK, Moments, RunningMoments, frechet_distance


def moments(features: np.ndarray, batch: int = 100) -> Moments:
    running = RunningMoments(features.shape[1], "test")
    for first in range(0, len(features), batch):
        running.add(torch.from_numpy(features[first : first + batch]))
    return running.result()


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    """The formula as ADM's evaluator writes it."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second)
    offset = a.mean(0) - b.mean(0)
    return float(offset @ offset + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


def features(count: int, dim: int, seed: int, decay: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dim)) * np.exp(-decay * np.arange(dim)) @ rng.normal(size=(dim, dim)) + seed


@pytest.mark.parametrize(
    "count, decay",
    [(1500, 0.0), (1500, 0.05), (1500, 0.1), (90, 0.0), (2, 0.0)],
    ids=["well-conditioned", "decaying", "nearly singular", "fewer images than dimensions", "two images"],
)
def test_the_distance_equals_scipys_matrix_square_root(count: int, decay: float) -> None:
    a, b = features(count, 200, 0, decay), features(1500, 200, 1, decay)
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(by_scipy(a, b), rel=1e-6)
    assert frechet_distance(moments(b), moments(a)) == pytest.approx(by_scipy(a, b), rel=1e-6)


def test_both_sets_of_fewer_images_than_dimensions() -> None:
    a, b = features(60, 200, 0), features(90, 200, 1)
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(by_scipy(a, b), rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(-12, 3))
def test_covariances_that_commute_have_a_closed_form(dim: int, seed: int, exponent: float) -> None:
    """S1 = Q A Q^T, S2 = Q B Q^T: the distance is the sum of (sqrt a - sqrt b)^2, whatever is zero or tiny in A and B."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    a, b = (10 ** rng.uniform(min(exponent, 3), 3, dim) * (rng.random(dim) < 0.7) for _ in range(2))
    sides = [Moments(np.zeros(dim), (basis * values) @ basis.T) for values in (a, b)]
    exact = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = frechet_distance(*sides)
    assert isinstance(found, float)
    assert found == pytest.approx(exact, rel=1e-6, abs=1e-9 * (a.sum() + b.sum() + 1e-12))


def test_images_that_are_nearly_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most features are constants; where torch's solver gives up on such a matrix, NumPy's is asked."""
    rng = np.random.default_rng(0)
    flat, varied = np.ones((40, 300)), features(400, 300, 1)
    flat[:, ::11] += rng.normal(size=(40, 28)) * 1e-4
    found = frechet_distance(moments(varied), moments(flat))
    assert found == pytest.approx(by_scipy(varied, flat), rel=1e-6)

    def refuse(matrix: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    for problem in ("eigvalsh", "svdvals"):
        monkeypatch.setattr(torch.linalg, problem, refuse)
    assert frechet_distance(moments(varied), moments(flat)) == pytest.approx(found, rel=1e-9)
    assert frechet_distance(moments(flat), moments(np.ones((40, 300)))) >= 0


def test_a_set_is_at_no_distance_from_itself() -> None:
    for count in (30, 800):
        own = moments(features(count, 100, 0))
        assert abs(frechet_distance(own, own)) <= 1e-9 * np.trace(own.covariance)


def test_the_moments_are_numpys_and_do_not_depend_on_the_batches() -> None:
    rows = (features(3 * BLOCK + 7, 20, 3) + 1e4).astype(np.float32)
    found = [moments(rows, batch) for batch in (1, 50, 1000, 5000)]
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(found[0].mean, wide.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found[0].covariance, np.cov(wide, rowvar=False), rtol=1e-9)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].mean, other.mean)
        np.testing.assert_array_equal(found[0].covariance, other.covariance)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 300), st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_moments_merge(count: int, seed: int, parts: int) -> None:
    rows = torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 6)) * 3 + 50)
    whole = RunningMoments(6, "test")
    for part in rows.tensor_split(parts):  # some may be empty
        own = RunningMoments(6, "test")
        own.add(part)
        whole.merge(own)
    np.testing.assert_allclose(whole.result().mean, rows.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.result().covariance, np.cov(rows.numpy(), rowvar=False), rtol=1e-9, atol=1e-12)


def test_what_has_no_distance_is_refused() -> None:
    good = moments(features(50, 4, 0))
    rows = features(50, 4, 0)
    rows[17, 2] = np.nan
    with pytest.raises(DataError, match="features of image 17"):
        moments(rows, 7)
    with pytest.raises(DataError, match="1 images have no covariance"):
        moments(rows[:1])
    with pytest.raises(DataError, match="of 4 and of 5 features"):
        frechet_distance(good, moments(features(50, 5, 0)))
    with pytest.raises(DataError, match="not finite"):
        frechet_distance(good, Moments(good.mean, good.covariance * np.inf))


def test_a_distance_is_never_below_zero() -> None:
    for seed in range(20):
        rows = np.random.default_rng(seed).normal(size=(30, 50)) * np.logspace(-8, 3, 50)
        moments = Moments(rows.mean(0), np.cov(rows.T))
        assert 0 <= frechet_distance(moments, moments) < 1e-6 * np.trace(moments.covariance)

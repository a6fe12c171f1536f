"""Files of moments in ADM's layout: what is written is read back, what is none is refused with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from star.errors import DataError
from star.evaluate.frechet import Moments
from star.evaluate.reference_file import read_reference, write_reference


def moments(size: int, seed: int) -> Moments:
    draws = np.random.default_rng(seed).standard_normal((4 * size, size))
    return Moments(draws.mean(0), np.cov(draws.T))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    pooled, spatial = moments(5, 0), moments(3, 1)
    grey = np.random.default_rng(2).integers(0, 256, (4, 6, 6, 1), dtype=np.uint8)
    path = tmp_path / "reference.npz"
    write_reference(path, "efficientnet-lite0@64", pooled, spatial, grey)
    assert [file.name for file in tmp_path.iterdir()] == ["reference.npz"]
    with np.load(path) as file:
        assert set(file.files) == {"mu", "sigma", "mu_s", "sigma_s", "arr_0", "extractor"}
        np.testing.assert_array_equal(file["arr_0"], grey.repeat(3, axis=-1))
        np.testing.assert_array_equal(file["sigma_s"], spatial.covariance)
    found = read_reference(path)
    assert found.extractor == "efficientnet-lite0@64" and found.has_images
    assert found.pooled is not None and found.spatial is not None
    for mine, theirs in ((found.pooled, pooled), (found.spatial, spatial)):
        np.testing.assert_array_equal(mine.mean, theirs.mean)
        np.testing.assert_array_equal(mine.covariance, theirs.covariance)
    colours = grey.repeat(3, axis=-1)
    write_reference(path, "inception", pooled, spatial, colours)
    with np.load(path) as file:
        assert file["arr_0"].shape == (4, 6, 6, 3) and read_reference(path).extractor == "inception"


def test_what_a_file_may_lack(tmp_path: Path) -> None:
    """ADM's files name no network: theirs is Inception. Moments or images are enough."""
    known = moments(4, 0)
    np.savez(tmp_path / "a.npz", mu=known.mean.astype(np.float32), sigma=known.covariance)
    found = read_reference(tmp_path / "a.npz")
    assert found.extractor == "inception" and found.spatial is None and not found.has_images
    assert found.pooled is not None and found.pooled.mean.dtype == np.float64
    np.savez(tmp_path / "b.npz", arr_0=np.zeros((1, 2, 2, 3), dtype=np.uint8), mu=known.mean)
    found = read_reference(tmp_path / "b.npz")
    assert found.pooled is None and found.has_images
    np.savez(tmp_path / "c.npz", mu=known.mean, other=known.mean)
    with pytest.raises(DataError, match="has neither mu and sigma nor images .*; it has: mu, other"):
        read_reference(tmp_path / "c.npz")


def test_rounding_of_large_numbers_is_no_asymmetry(tmp_path: Path) -> None:
    """What counts is the size of the difference beside that of the covariance."""
    covariance = np.eye(4) * 1e6
    covariance[0, 1] = 0.9
    np.savez(tmp_path / "a.npz", mu=np.zeros(4), sigma=covariance)
    assert read_reference(tmp_path / "a.npz").pooled is not None
    covariance[0, 1] = 1.1
    np.savez(tmp_path / "b.npz", mu=np.zeros(4), sigma=covariance)
    with pytest.raises(DataError, match="symmetric"):
        read_reference(tmp_path / "b.npz")


def asymmetric(size: int) -> np.ndarray:
    found = np.eye(size)
    found[0, 1] = 2e-6
    return found


@pytest.mark.parametrize(
    ("mean", "covariance", "reason"),
    [
        (np.zeros(3, dtype=int), np.eye(3), "mu and sigma are not floating-point numbers"),
        (np.zeros(3), np.eye(3, dtype=int), "mu and sigma are not floating-point numbers"),
        (np.zeros((1, 3)), np.eye(3), "no covariance for mu of shape"),
        (np.zeros(3), np.eye(4), "no covariance for mu of shape"),
        (np.zeros(3), np.ones((3, 4)), "no covariance for mu of shape"),
        (np.array([0, np.nan, 0]), np.eye(3), "not finite numbers"),
        (np.zeros(3), np.diag([1, np.inf, 1]), "not finite numbers"),
        (np.zeros(3), asymmetric(3), "it is not symmetric"),
        (np.zeros(3), np.diag([1.0, -1e-3, 1.0]), "negative variances"),
    ],
)
def test_what_is_no_covariance_is_refused(
    mean: np.ndarray, covariance: np.ndarray, reason: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", mu=mean, sigma=covariance)
    with pytest.raises(DataError, match=reason):
        read_reference(tmp_path / "a.npz")


def test_what_rounding_leaves_is_taken(tmp_path: Path) -> None:
    covariance = np.diag([1.0, 0.0, 1.0])
    covariance[0, 1] = 5e-7
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=covariance)
    assert read_reference(tmp_path / "a.npz").pooled is not None


def test_what_is_no_file_of_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"text")
    with pytest.raises(DataError, match="is no .npz archive, or is cut short"):
        read_reference(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    with pytest.raises(DataError, match="it holds Python objects, no numbers"):
        read_reference(tmp_path / "b.npz")

"""Distances and scores against independent, slower implementations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from star.evaluate.features import EfficientNetLite0, extract
from star.evaluate.frechet import frechet_distance, inception_score, moments
from star.evaluate.linear_probe import probe_positions, train_probe
from star.evaluate.precision_recall import precision_recall, radii
from star.spec.sections import ProbeSpec


@pytest.mark.parametrize("count", [400, 30], ids=["full rank", "fewer samples than dimensions"])
def test_frechet_distance_equals_the_matrix_square_root(count: int) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(40, 40)) / 6
    a, b = rng.normal(size=(count, 40)) @ mixing, rng.normal(size=(count, 40)) + 0.3
    ours = frechet_distance(moments(a), moments(b))
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    offset = a.mean(0) - b.mean(0)
    theirs = offset @ offset + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * np.real(root))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert frechet_distance(moments(a), moments(a)) == pytest.approx(0, abs=1e-6)


def test_inception_score_equals_its_formula() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.full(6, 0.3), size=50)
    scores = []
    for part in (probabilities[:25], probabilities[25:]):
        mean = part.mean(0)
        scores.append(np.exp(np.mean([sum(p * np.log(p / q) for p, q in zip(row, mean, strict=True)) for row in part])))
    assert inception_score(probabilities, 2) == pytest.approx(np.mean(scores), rel=1e-9)
    assert inception_score(np.full((10, 4), 0.25), 1) == pytest.approx(1)
    assert inception_score(np.eye(4).repeat(3, axis=0), 1) == pytest.approx(4)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_equal_brute_force(neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("star.evaluate.precision_recall.BLOCK", 17)  # several blocks, the last one short
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    fake = torch.cat(
        [real[:5], torch.randn(45, 5, generator=generator, dtype=torch.float64) * 0.8 + 0.5]
    )  # ties included

    def ball(points: torch.Tensor, i: int) -> float:
        return float(sorted(float((points[i] - p).square().sum()) for p in points)[neighbours])

    def inside(points: torch.Tensor, centres: torch.Tensor) -> float:
        limits = [ball(centres, i) for i in range(len(centres))]
        return sum(
            any(float((p - c).square().sum()) <= r for c, r in zip(centres, limits, strict=True)) for p in points
        ) / len(points)

    precision, recall = precision_recall(real, fake, radii(real, neighbours), neighbours)
    assert precision == pytest.approx(inside(fake, real))
    assert recall == pytest.approx(inside(real, fake))


def test_features_do_not_depend_on_the_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1), dtype=np.uint8)
    network = EfficientNetLite0(64)
    whole, parts = (
        extract(network, images, None, size, torch.device("cpu"), lambda done, total: None) for size in (7, 3)
    )
    assert whole.pooled.shape == (7, 1280) and whole.spatial.shape == (7, 4 * 4 * 7)
    np.testing.assert_allclose(whole.pooled, parts.pooled, atol=1e-4)
    np.testing.assert_allclose(whole.probabilities.sum(1), 1, rtol=1e-5)


def test_the_extractor_knows_imagenet() -> None:
    """Its weights are really there: random weights do not tell a bright disc from noise with any confidence."""
    y, x = np.mgrid[:224, :224]
    disc = ((np.hypot(y - 112, x - 112) < 80) * 200 + 20).astype(np.uint8)
    picture = np.stack([disc, disc // 2, disc // 4], axis=-1)[None]
    features = extract(EfficientNetLite0(224), picture, None, 1, torch.device("cpu"), lambda done, total: None)
    assert features.probabilities.max() > 0.05  # a thousand classes: chance is 0.001


def test_probe_positions_end_at_the_last() -> None:
    assert probe_positions(8, 256) == [32, 64, 96, 128, 160, 192, 224, 256]
    assert probe_positions(8, 49) == [6, 12, 18, 24, 31, 37, 43, 49]


def test_the_probe_finds_what_is_linearly_there() -> None:
    """Position 1 holds the class, position 2 holds noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (600,), generator=generator)
    centres = torch.randn(4, 8, generator=generator) * 2
    features = torch.randn(600, 2, 8, generator=generator)
    features[:, 0] += centres[labels]
    spec = ProbeSpec(positions=2, epochs=20, warmup_epochs=2, batch_size=64, base_lrs=[0.001, 30.0])
    found = train_probe(
        (features[:400], labels[:400]), (features[400:], labels[400:]), 4, spec, [1, 2], 0, lambda done, total: None
    )
    assert found.accuracy[0] > 0.9
    assert 0.1 < found.accuracy[1] < 0.45
    assert found.best_lr[0] == 30.0

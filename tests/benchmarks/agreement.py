"""How far each metric is from an independent implementation, measured: `python -m tests.benchmarks.agreement`.

The tests under tests/numerics hold the same comparisons to the tolerances in the last column.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from star.evaluate.features import activations, prepared
from star.evaluate.frechet import Moments, frechet_distance
from star.evaluate.inception import InceptionV3
from star.evaluate.precision_recall import manifold, precision_recall
from star.evaluate.resize import tensorflow_bilinear
from tests.numerics.inception_weights import seeded_weights
from tests.numerics.test_frechet import by_scipy, features, moments
from tests.numerics.test_inception import GOLDEN
from tests.numerics.test_precision_recall import brute
from tests.numerics.test_statistics import scored


def frechet() -> None:
    """Against scipy.linalg.sqrtm."""
    cases = {
        "1500 images, 200 dimensions": (1500, 1500, 0.0),
        "variances over 9 orders of magnitude": (1500, 1500, 0.05),
        "90 images of 200 dimensions": (90, 1500, 0.0),
        "60 against 90 images of 200 dimensions": (60, 90, 0.0),
    }
    for name, (first, second, decay) in cases.items():
        a, b = features(first, 200, 0, decay), features(second, 200, 1, decay)
        theirs = by_scipy(a, b)
        show(
            "Frechet distance",
            f"SciPy's sqrtm; {name}",
            abs(frechet_distance(moments(a), moments(b)) / theirs - 1),
            "1e-6",
        )
    values = np.random.default_rng(0).uniform(0, 10, (2, 200)) * (np.random.default_rng(1).random((2, 200)) < 0.7)
    basis = np.linalg.qr(np.random.default_rng(2).normal(size=(200, 200)))[0]
    sides = [Moments(np.zeros(200), (basis * part) @ basis.T) for part in values]
    exact = ((np.sqrt(values[0]) - np.sqrt(values[1])) ** 2).sum()
    show(
        "Frechet distance",
        "closed form; singular covariances that commute",
        abs(frechet_distance(*sides) / exact - 1),
        "1e-6",
    )


def neighbours() -> None:
    """Against brute force."""
    generator = torch.Generator().manual_seed(0)
    sets = {
        "2000 points of 64 dimensions": torch.randn(2, 2000, 64, generator=generator),
        "integer points, most distances tied": torch.randn(2, 2000, 4, generator=generator).mul(2).round(),
    }
    for name, (real, fake) in sets.items():
        precise, recalled, radii = brute(real, fake, 3)
        balls = manifold(real, 3)
        found = precision_recall(balls, manifold(fake, 3))
        show(
            "precision, recall", f"float64 brute force; {name}", abs(found[0] - precise) + abs(found[1] - recalled), "0"
        )
        relative = ((balls.radii - radii).abs() / radii.clamp(min=1e-300)).max().item()
        show("radii", f"float64 brute force; {name}", relative, "1e-12")


def score() -> None:
    """Against the formula."""
    probabilities = np.random.default_rng(0).dirichlet(np.full(1008, 0.01), size=12_000)
    scores = []
    for first in range(0, 12_000, 5000):
        part = np.maximum(probabilities[first : first + 5000], 1e-300)
        divergence = part * (np.log(part) - np.log(part.mean(0)))
        scores.append(np.exp(divergence.sum(1).mean()))
    show(
        "inception score",
        "ADM's formula; splits of 5000, 5000, 2000",
        abs(scored(probabilities, 5000, 50) / np.mean(scores) - 1),
        "1e-9",
    )


def network() -> None:
    """Against torch-fidelity and TensorFlow."""
    inception = InceptionV3()
    inception.load_state_dict(seeded_weights(), strict=False)
    images = np.random.RandomState(1).randint(0, 256, (2, 3, 64, 80)).astype(np.uint8).transpose(0, 2, 3, 1)
    (made,) = activations(prepared(inception), [images], torch.device("cpu"))
    for name, values, tolerance in (
        ("pooled", made.pooled[:, ::16], "1e-5"),
        ("spatial", made.spatial[:, ::13], "1e-5"),
        ("probabilities", made.probabilities[:, ::8], "1e-8"),
    ):
        difference = np.abs(values.numpy() - GOLDEN[name]).max()
        show(f"Inception, {name}", "torch-fidelity 0.4.0, the same seeded weights", difference, tolerance)
    worst = 0.0
    for key in GOLDEN.files:
        if key.startswith("resize_"):
            height, width = map(int, key.removeprefix("resize_").split("x"))
            drawn = np.random.RandomState(height).randint(0, 256, (1, height, width, 3)).astype(np.uint8)
            found = tensorflow_bilinear(torch.from_numpy(drawn).permute(0, 3, 1, 2), 299).permute(0, 2, 3, 1)
            worst = max(worst, np.abs(found[:, ::13, ::17].numpy() - GOLDEN[key]).max())
    show("resize", "TensorFlow 2.21's resize_bilinear, four sizes, of 255", worst, "1e-4")


def show(what: str, against: str, difference: float, tolerance: str) -> None:
    """One row."""
    sys.stdout.write(f"| {what} | {against} | {difference:.1e} | {tolerance} |\n")


if __name__ == "__main__":
    sys.stdout.write("| number | against | difference | tested to |\n|---|---|---:|---:|\n")
    for part in (frechet, neighbours, score, network):
        part()

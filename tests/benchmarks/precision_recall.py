"""Precision and recall of 10,000 against 10,000 points of 2048 features, against a plain blocked NumPy version.

    python -m tests.benchmarks.precision_recall [points]

The plain version is the definition with distances from |a|^2 + |b|^2 - 2 a.b in blocks of rows, in float32 (fast, inexact) and
float64. Each version runs in a process of its own, whose largest memory is reported.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np
import torch

from star.evaluate.precision_recall import manifold, precision_recall

DIM, NEIGHBOURS, ROWS = 2048, 3, 1000


def points(count: int, seed: int) -> np.ndarray:
    """Features on a manifold of 64 dimensions with noise, not negative, as pooled ones are."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(9).normal(size=(64, DIM)) / 8
    noise = rng.normal(size=(count, DIM)).astype(np.float32) * 0.3
    return np.maximum(rng.normal(size=(count, 64)).astype(np.float32) @ basis.astype(np.float32) + noise, 0)


def plain(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """Blocked NumPy."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T

    def radii(x: np.ndarray) -> np.ndarray:
        parts = [np.partition(distances(x[i : i + ROWS], x), NEIGHBOURS, axis=1) for i in range(0, len(x), ROWS)]
        return np.concatenate([part[:, NEIGHBOURS] for part in parts])

    def inside(x: np.ndarray, centres: np.ndarray, limits: np.ndarray) -> float:
        hits = [(distances(x[i : i + ROWS], centres) <= limits).any(1) for i in range(0, len(x), ROWS)]
        return float(np.concatenate(hits).mean())

    return inside(fake, real, radii(real)), inside(real, fake, radii(fake))


def ours(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """The project's."""
    first, second = (manifold(torch.from_numpy(x), NEIGHBOURS) for x in (real, fake))
    return precision_recall(first, second)


def child(version: str, count: int) -> None:
    """One version: seconds, peak memory in MB, precision and recall."""
    real, fake = points(count, 0), points(count, 1)
    if version == "float64":
        real, fake = real.astype(np.float64), fake.astype(np.float64)
    started = time.perf_counter()
    values = (ours if version == "star" else plain)(real, fake)
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"{seconds} {memory} {values[0]} {values[1]}")


def main() -> None:
    """Print the three versions side by side, in turn."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    found = {}
    for version in ("star", "float32", "float64", "star"):
        command = [sys.executable, "-m", "tests.benchmarks.precision_recall", version, str(count)]
        values = [float(x) for x in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]
        found[version] = min(found.get(version, values), values)
    sys.stdout.write("| version | s | times star | peak MB | precision | recall |\n|---|---:|---:|---:|---:|---:|\n")
    for version, (seconds, memory, precision, recall) in found.items():
        name = version if version == "star" else f"NumPy {version}"
        ratio = seconds / found["star"][0]
        sys.stdout.write(f"| {name} | {seconds:.1f} | {ratio:.1f} | {memory:.0f} | {precision} | {recall} |\n")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        child(sys.argv[1], int(sys.argv[2]))
    else:
        main()

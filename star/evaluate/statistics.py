"""Statistics of a set of images, gathered in one pass over it, and the comparison of two sets: ADM's five metrics.

Memory is bounded whatever the number of images: two covariances, the sums of the inception score's splits, and the
features of at most `keep` images for precision and recall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from star.data.pixels import Images
from star.evaluate.features import Activations, Extractor, activations
from star.evaluate.frechet import Moments, RunningMoments, frechet_distance
from star.evaluate.inception_score import RunningScore
from star.evaluate.precision_recall import Manifold, manifold, precision_recall
from star.ranks import Ranks

SPLIT_SIZE = 5000
"""Images per split of the inception score, as in ADM's evaluator."""


def evenly(total: int, kept: int) -> np.ndarray:
    """Indices (min(kept, total),) spread evenly over `total` images, one from each of as many equal parts.

    So they are of all classes of images sorted by class. Which one of its part is drawn, by a fixed seed: every fifth image
    would be of two classes where ten classes take turns.
    """
    kept = min(kept, total)
    ends = np.arange(kept + 1) * total // kept
    return ends[:-1] + (np.random.default_rng((0, 8)).random(kept) * np.diff(ends)).astype(np.int64)


class Statistics:
    """Statistics of one set of images, gathered on `device`.

    Args:
        total: how many images there will be; None if unknown, as with a generator.
        keep: how many images' pooled features are kept: spread evenly over `total`, or the first if it is None.
        split_size: images per split of the inception score.
    """

    def __init__(self, total: int | None, keep: int, split_size: int, device: torch.device) -> None:
        self.total, self.split_size, self.device = total, split_size, device
        self.kept = np.arange(keep) if total is None else evenly(total, keep)
        self._points: Tensor | None = None

    def gather(
        self,
        network: Extractor,
        batches: Iterable[Images],
        first: int = 0,
        side: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Add images `first`, `first` + 1, ..., given in batches (B, H, W, C).

        Args:
            side: resize the images to this side in pixels first.
            progress: receives how many images of this pass are done.

        Raises:
            DataError: a feature is not a finite number.
        """
        start = first
        for made in activations(network, batches, self.device, side):
            if self._points is None:
                self._begin(made, first)
            self.pooled.add(made.pooled)
            self.spatial.add(made.spatial)
            self.score.add(made.probabilities, first)
            self._keep(made.pooled, first)
            first += len(made.pooled)
            progress(first - start)

    def _begin(self, made: Activations, first: int) -> None:
        self._points = torch.zeros(len(self.kept), made.pooled.shape[1], device=self.device)
        self.pooled = RunningMoments(made.pooled.shape[1], "pooled", self.device, first)
        self.spatial = RunningMoments(made.spatial.shape[1], "spatial", self.device, first)
        self.score = RunningScore(made.probabilities.shape[1], self.split_size, self.device)

    def _keep(self, pooled: Tensor, first: int) -> None:
        assert self._points is not None
        low, high = np.searchsorted(self.kept, [first, first + len(pooled)])
        rows = torch.from_numpy(self.kept[low:high] - first).to(pooled.device)
        self._points[low:high] = pooled[rows]

    @property
    def points(self) -> Tensor:
        """The kept pooled features, (n, D) float32. With a known `total`, rows of images that were not gathered here are zero."""
        assert self._points is not None, "no images were gathered"
        return self._points if self.total is not None else self._points[: self.pooled.seen]

    def merge_ranks(self, ranks: Ranks) -> None:
        """Combine the statistics of all ranks, each gathered from its own images; afterwards all hold the same."""
        if ranks.world_size == 1:
            return
        assert self.total is not None, "ranks share a known number of images"
        self._points = ranks.all_reduce(self.points)
        self.score.grow(-(-self.total // self.split_size))
        for sums in ("count", "total", "negentropy"):
            setattr(self.score, sums, ranks.all_reduce(getattr(self.score, sums)))
        for name in ("pooled", "spatial"):
            setattr(self, name, _merged(getattr(self, name), ranks))


def _merged(own: RunningMoments, ranks: Ranks) -> RunningMoments:
    own.settle()
    whole = RunningMoments(len(own.mean), own.name, own.mean.device)
    parts = [ranks.gather(part[None]) for part in (own.count, own.mean, own.scatter)]
    for count, mean, scatter in zip(*parts, strict=True):
        part = RunningMoments(len(mean), own.name, mean.device)
        part.count, part.mean, part.scatter, part.seen = count, mean, scatter, int(count)
        whole.merge(part)
    return whole


@dataclass
class Reference:
    """Statistics of the images that generated images are compared with."""

    pooled: Moments
    spatial: Moments | None = None
    manifold: Manifold | None = None


METRICS = ("inception_score", "frechet_distance", "spatial_frechet_distance", "precision", "recall")
"""ADM's metrics, in the order in which its evaluator prints them."""


def compare(reference: Reference, generated: Statistics, neighbours: int) -> dict[str, float]:
    """ADM's five metrics, or those of them that the reference has statistics for.

    Args:
        neighbours: k of precision and recall for the generated images; the reference's balls already have theirs.

    Raises:
        DataError: too few images, or features of different networks.
    """
    found = {
        "inception_score": generated.score.result(),
        "frechet_distance": frechet_distance(reference.pooled, generated.pooled.result()),
    }
    if reference.spatial is not None:
        found["spatial_frechet_distance"] = frechet_distance(reference.spatial, generated.spatial.result())
    if reference.manifold is not None:
        balls = manifold(generated.points, neighbours)
        found["precision"], found["recall"] = precision_recall(reference.manifold, balls)
    return found

"""The cluster loss of IAR (arXiv 2501.00880): a code like the right one is better than any."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from star.objectives import Batch, Features, FieldError, Setting, StudentOutput, Term, TermConfig
from star.objectives.precision import at_least_fp32
from star.plugin import Job

from .costs import head_flops

ROUNDS = 20
"""Of k-means; clusters of codebooks settle sooner."""


class ClusterConfig(TermConfig):
    """How codes are grouped by their vectors in the tokenizer's codebook; `weight` 1.0 as published."""

    size: int | None = Field(
        None,
        ge=2,
        description="codes of a cluster, a divisor of tokenizer.codebook_size; null: the one nearest to its root, 128 of 16,384",
    )


class Cluster(Term):
    """L = mean over p of -log of the sum over k in cluster(x_p) of softmax(logits_p)_k.

    Clusters are found once, by k-means of the normalised rows of the codebook in which every cluster has `size` codes.
    """

    name = "cluster"
    version = 1
    config = ClusterConfig
    after = ("tokenizer",)
    loss_names = ("cluster_loss",)

    def __init__(self, fields: ClusterConfig, setting: Setting) -> None:
        self.setting, codes = setting, setting.codebook_size
        if fields.size is not None and codes % fields.size:
            raise FieldError("size", f"{fields.size} is no divisor of the codebook's {codes} codes")
        if fields.size == codes:
            raise FieldError(
                "size", f"{fields.size} puts all codes into one cluster, which tells nothing apart; give less"
            )
        divisors = [size for size in range(2, codes) if codes % size == 0]
        if not divisors:
            raise FieldError(
                "size", f"a codebook of {codes} codes has no divisor, so no clusters of one size; give it another size"
            )
        self.size = fields.size or min(divisors, key=lambda size: abs(size - codes**0.5))

    def flops(self) -> float:
        """The head once more: the next-code loss never holds the logits that this one reads."""
        assert self.setting is not None
        return 3 * head_flops(self.setting, self.setting.length)

    def prepare(self, job: Job) -> None:
        vectors = job.tokenizer().codebook().double().cpu().numpy()
        self.clusters = torch.from_numpy(balanced_clusters(vectors, self.size))

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor:
        """The cluster of each code, (images, S, T)."""
        self.clusters = self.clusters.to(batch.codes.device)
        return self.clusters[batch.codes[rows, : batch.student_views]]

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        assert targets is not None
        logits = at_least_fp32(out.logits)
        count = len(self.clusters) // self.size
        # codes in the order of their clusters: sums over neighbours
        grouped = logits[..., self.clusters.argsort(stable=True)].unflatten(-1, (count, self.size)).logsumexp(-1)
        summed = torch.nn.functional.cross_entropy(grouped.flatten(0, 1), targets.flatten(), reduction="sum")
        return {"cluster_loss": summed / batch.codes[:, : batch.student_views].numel()}


def balanced_clusters(vectors: np.ndarray, size: int) -> np.ndarray:
    """The cluster of each row, (V,) int64: k-means of normalised rows, all clusters of `size` rows.

    In each round the pairs of row and centre are taken by similarity, the best first, each if the row has no cluster yet
    and the cluster is not full. The first centres are rows as far from each other as can be, the first of them row 0.
    """
    rows = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    count = len(rows) // size
    chosen, nearest = [0], rows @ rows[0]
    while len(chosen) < count:
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, rows @ rows[chosen[-1]])
    centres, found = rows[chosen], np.full(len(rows), -1)
    for _ in range(ROUNDS):
        before, found = found, _filled(rows @ centres.T, size)
        if (before == found).all():
            break
        centres = np.stack([rows[found == one].mean(0) for one in range(count)])
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    return found


def _filled(similarity: np.ndarray, size: int) -> np.ndarray:
    """(V, C) similarities -> the cluster of each row, (V,), `size` rows in each."""
    found, left = np.full(len(similarity), -1), np.full(similarity.shape[1], size)
    places = np.unravel_index(np.argsort(-similarity, axis=None, kind="stable"), similarity.shape)
    for row, cluster in zip(*(one.tolist() for one in places), strict=True):
        if found[row] < 0 and left[cluster]:
            found[row] = cluster
            left[cluster] -= 1
    return found

"""The inception score (Salimans et al. 2016) of images in batches: exp of the mean KL divergence of p(y|x) from p(y), per split."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class RunningScore:
    """The score's sums over splits of consecutive images, unshuffled as in ADM's evaluator; the last may be short.

    Args:
        split_size: images per split.
    """

    def __init__(self, classes: int, split_size: int, device: torch.device | None = None) -> None:
        self.split_size = split_size
        self.count = torch.zeros(0, dtype=torch.float64, device=device)
        """Number of images in each split."""
        self.total = torch.zeros(0, classes, dtype=torch.float64, device=device)
        """Sum of p(y|x) over the images of each split, (splits, classes)."""
        self.negentropy = torch.zeros(0, dtype=torch.float64, device=device)
        """Sum of p(y|x) log p(y|x) over classes and over the images of each split."""

    def grow(self, splits: int) -> None:
        """Make room for this many splits."""
        more = max(0, splits - len(self.count))
        self.count, self.negentropy = F.pad(self.count, (0, more)), F.pad(self.negentropy, (0, more))
        self.total = F.pad(self.total, (0, 0, 0, more))

    def add(self, probabilities: Tensor, first: int) -> None:
        """Add p(y|x) (B, classes) of images `first`, `first` + 1, ..."""
        wide = probabilities.double()
        self.grow((first + len(wide) - 1) // self.split_size + 1)
        split = torch.arange(first, first + len(wide), device=wide.device) // self.split_size
        self.count.index_add_(0, split, torch.ones_like(split, dtype=torch.float64))
        self.total.index_add_(0, split, wide)
        self.negentropy.index_add_(0, split, torch.special.xlogy(wide, wide).sum(1))

    def result(self) -> float:
        """The inception score: the mean over splits, at least 1."""
        used = self.count > 0
        count, mean = self.count[used], self.total[used] / self.count[used, None]
        divergence = self.negentropy[used] / count - torch.special.xlogy(mean, mean).sum(1)
        return float(divergence.exp().mean())

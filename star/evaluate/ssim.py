"""Structural similarity of images (Wang, Bovik, Sheikh and Simoncelli 2004)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
"""Side of the Gaussian window in pixels."""
SIGMA = 1.5
"""Its standard deviation."""
K1, K2 = 0.01, 0.03
"""The paper's constants."""


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity (B,) of images (B, C, H, W) in [0, 1], at least 11 pixels along a side.

    Means, variances and covariance under a Gaussian window, wherever it lies wholly inside; averaged over positions and
    channels. 1 only for equal images.

    Raises:
        ValueError: an image is smaller than the window.
    """
    if min(first.shape[-2:]) < WINDOW:
        raise ValueError(f"images of {tuple(first.shape[-2:])} pixels are smaller than the window of {WINDOW}")
    offsets = torch.arange(WINDOW, dtype=first.dtype, device=first.device) - WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * SIGMA**2))
    line = line / line.sum()

    def blurred(x: Tensor) -> Tensor:
        x = x.flatten(0, 1)[:, None]
        x = F.conv2d(F.conv2d(x, line[None, None, :, None]), line[None, None, None, :])
        return x.view(len(first), -1, *x.shape[-2:])

    a, b = blurred(first), blurred(second)
    var_a = blurred(first.square()) - a.square()
    var_b = blurred(second.square()) - b.square()
    both = blurred(first * second) - a * b
    c1, c2 = K1**2, K2**2
    found = (2 * a * b + c1) * (2 * both + c2) / ((a.square() + b.square() + c1) * (var_a + var_b + c2))
    return found.mean((1, 2, 3))

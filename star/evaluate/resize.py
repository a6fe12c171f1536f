"""TensorFlow 1's bilinear resize, which FID's numbers depend on: no half-pixel centres, no smoothing before shrinking."""

from __future__ import annotations

import torch
from torch import Tensor


def tensorflow_bilinear(images: Tensor, side: int) -> Tensor:
    """Resize images (B, C, h, w) to (B, C, side, side) float32, as `tf.image.resize_bilinear` does by default.

    Pixel i of the output lies at i * h / side of the input; rows and columns beyond the last repeat it.
    """
    images = images.float()
    top, bottom, down = _places(images.shape[2], side, images.device)
    left, right, across = _places(images.shape[3], side, images.device)
    wide = torch.lerp(images[..., left], images[..., right], across)
    return torch.lerp(wide[:, :, top], wide[:, :, bottom], down[:, None])


def _places(length: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each output pixel, the indices of the two input pixels beside it, and the weight of the second."""
    place = torch.arange(side, dtype=torch.float32, device=device) * (length / side)
    before = place.floor().long().clamp(max=length - 1)
    return before, (before + 1).clamp(max=length - 1), place - before

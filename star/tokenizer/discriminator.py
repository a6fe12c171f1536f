"""VQGAN's patch discriminator (Esser et al. 2021; Isola et al. 2017), and the hinge losses."""

from __future__ import annotations

from math import gcd

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
"""Of the leaky ReLUs."""


class PatchDiscriminator(nn.Module):
    """Says of each patch of an image whether it is real, after VQGAN's discriminator (Esser et al. 2021; Isola et al. 2017).

    Changed from it: the two convolutions that keep the side are 3 x 3 (those that halve it 4 x 4), and norms are group norms.

    Args:
        image_channels: channels C of the images.
        width: channels after the first layer; they double with each of `layers`.
        layers: layers that halve the side. A patch has 26 pixels a side for 2, 54 for 3.
    """

    def __init__(self, image_channels: int, width: int, layers: int = 2) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(image_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        for i in range(1, layers + 1):
            inputs, outputs = width << (i - 1), width << i
            stride = 2 if i < layers else 1
            kernel = 4 if stride == 2 else 3
            convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=1, bias=False)
            parts += [convolution, nn.GroupNorm(gcd(8, outputs), outputs), nn.LeakyReLU(SLOPE)]
        parts.append(nn.Conv2d(width << layers, 1, 3, padding=1))
        self.layers = nn.Sequential(*parts)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1, h, w) of the patches of images (B, C, H, W): above 0 where they seem real."""
        found: Tensor = self.layers(images)
        return found


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss on logits of real and of made patches, at least 0."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())

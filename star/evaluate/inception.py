"""The network that FID, sFID and IS are defined on: Inception v3 as TensorFlow published it in December 2015.

It differs from torchvision's: 1008 classes, average pooling without the padding, max pooling in the last block's pool
branch. Parameter names are those of the widely used PyTorch port of its weights. Shapes: B images, 299 x 299 after the
resize.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star.data.inception_file import INCEPTION_FILE, check
from star.errors import DataError
from star.evaluate.resize import tensorflow_bilinear
from star.weights import fit, load_state

SIDE = 299
POOLED, CLASSES = 2048, 1008
SPATIAL_CHANNELS = 7
"""Channels of a spatial feature map that are kept, as in ADM's sFID: there of the 17 x 17 map `mixed_6/conv`."""


class BasicConv2d(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _long(inputs: int, outputs: int, kernel: tuple[int, int]) -> BasicConv2d:
    """A 1 x 7, 7 x 1, 1 x 3 or 3 x 1 convolution that keeps the side."""
    return BasicConv2d(inputs, outputs, kernel, padding=(kernel[0] // 2, kernel[1] // 2))


class BlockA(nn.Module):
    """Block at 35 x 35 with four branches: 1 x 1, 5 x 5, two 3 x 3 in sequence, and average pooling."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(inputs, 64, 1)
        self.branch5x5_1 = BasicConv2d(inputs, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_average(x))], dim=1)


class BlockB(nn.Module):
    """Block that reduces 35 x 35 to 17 x 17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockC(nn.Module):
    """Block at 17 x 17: 1 x 1, factorised 7 x 7, two of these, and average pooling; `inner` channels in branches."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        across, down = (1, 7), (7, 1)
        self.branch1x1 = BasicConv2d(inputs, 192, 1)
        self.branch7x7_1 = BasicConv2d(inputs, inner, 1)
        self.branch7x7_2 = _long(inner, inner, across)
        self.branch7x7_3 = _long(inner, 192, down)
        self.branch7x7dbl_1 = BasicConv2d(inputs, inner, 1)
        self.branch7x7dbl_2 = _long(inner, inner, down)
        self.branch7x7dbl_3 = _long(inner, inner, across)
        self.branch7x7dbl_4 = _long(inner, inner, down)
        self.branch7x7dbl_5 = _long(inner, 192, across)
        self.branch_pool = BasicConv2d(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], dim=1)


class BlockD(nn.Module):
    """Block that reduces 17 x 17 to 8 x 8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(inputs, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(inputs, 192, 1)
        self.branch7x7x3_2 = _long(192, 192, (1, 7))
        self.branch7x7x3_3 = _long(192, 192, (7, 1))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockE(nn.Module):
    """Block at 8 x 8 with four branches: 1 x 1, forked 3 x 3, 3 x 3 then forked 3 x 3, and a pool.

    The pool is the average in the first such block, the maximum in the second.
    """

    def __init__(self, inputs: int, maximum: bool) -> None:
        super().__init__()
        across, down = (1, 3), (3, 1)
        self.maximum = maximum
        self.branch1x1 = BasicConv2d(inputs, 320, 1)
        self.branch3x3_1 = BasicConv2d(inputs, 384, 1)
        self.branch3x3_2a = _long(384, 384, across)
        self.branch3x3_2b = _long(384, 384, down)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _long(384, 384, across)
        self.branch3x3dbl_3b = _long(384, 384, down)
        self.branch_pool = BasicConv2d(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        forks = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        forks += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *forks, self.branch_pool(pooled)], dim=1)


class InceptionV3(nn.Module):
    """The network, with random weights until a state dict is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, maximum=False)
        self.Mixed_7c = BlockE(2048, maximum=True)
        self.fc = nn.Linear(POOLED, CLASSES)

    def resized(self, images: Tensor) -> Tensor:
        """Images (B, 3 or 1, h, w) in [0, 255], resized to (B, 3, 299, 299) and scaled to [-1, 1)."""
        return ((tensorflow_bilinear(images, SIDE) - 128) / 128).expand(-1, 3, -1, -1)

    def layers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled (B, 2048) and spatial (B, 2023) features and p(y|x) (B, 1008) of what `resized` returns."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        # TensorFlow's order, height, width, channel: with another one the distance to stored references is about 299
        spatial = self.Mixed_6d.branch1x1(x)[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))
        pooled = self.Mixed_7c(self.Mixed_7b(x)).mean((2, 3))
        return pooled, spatial, F.linear(pooled, self.fc.weight).softmax(-1)  # the bias is left out, as ADM does


def load_inception(path: Path) -> InceptionV3:
    """Load the network with the published weights, on the CPU, in training mode: `star.evaluate.features.prepared` readies it.

    Raises:
        DataError: the file is missing, or is not exactly the published one.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: Inception's weights are not there. `star-exp weights fetch inception` gets them (with --from FILE also without a "
            f"network); the file is {INCEPTION_FILE}, 96 MB. Without them, the extractor efficientnet-lite0 compares under its own name."
        )
    check(path)
    network = InceptionV3()
    state = load_state(path)
    counters = {
        key: torch.zeros((), dtype=torch.long) for key in network.state_dict() if key.endswith("num_batches_tracked")
    }
    fit(network, counters | state, path, "score")
    return network

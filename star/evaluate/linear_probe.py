"""Linear probe by MAE's protocol: normalised frozen features, one linear layer, LARS, no weight decay.

All positions and all learning rates train at once: the heads are one tensor W (L rates, P positions, D, classes). The
learning rate of each position is the one with the best accuracy on held-out training images; the test images are used
once, with that rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from star.errors import DataError
from star.evaluate.probe_features import FeatureSource
from star.pipeline.config.probe import ProbeSpec

MOMENTUM = 0.9
TRUST = 0.001
EPSILON = 1e-6
"""Added to the variance by the batch norm."""
LOGITS = 2**27
"""Most logits of all heads that are held at a time; a larger batch is split, with the same gradient."""
TESTED = 2048
"""Most images per pass when testing."""


@dataclass
class ProbeResult:
    """Accuracies on the test images."""

    positions: list[int]
    """1-based positions, T/n, ..., T."""
    accuracy: list[float]
    """Top-1 accuracy at each position, with the learning rate that was best on held-out training images."""
    accuracy_top5: list[float]
    """Top-5 accuracy at each position, with the same learning rate."""
    best_lr: list[float]
    """The learning rate chosen at each position, per 256 images."""


def probe_positions(count: int, length: int) -> list[int]:
    """`count` equally spaced 1-based positions up to `length`. Position p is the input whose output predicts code p."""
    return [round(length * (i + 1) / count) for i in range(count)]


def train_probe(
    train: FeatureSource,
    test: FeatureSource,
    num_classes: int,
    spec: ProbeSpec,
    positions: list[int],
    seed: int,
    progress: Callable[[int, int], None],
) -> ProbeResult:
    """Train all heads on `train`, choose each position's learning rate on held-out images of it, then test on `test`.

    The protocol is MAE's (He et al. 2022, main_linprobe.py). Its batch norm takes its statistics from each GPU's part of a batch, 512
    images by default. Here the features are frozen, so the statistics are constants: those of all images trained on.

    Args:
        positions: the 1-based positions whose features the sources give, in their order; they are only passed on.
        seed: of the held-out images, the first weights and the order of batches.
        progress: receives (epochs done, epochs).

    Raises:
        DataError: features are not finite, or the weights of all rates.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train.labels), generator=generator)
    held = max(1, round(spec.holdout * len(order)))
    chosen, kept = order[:held], order[held:]
    mean, scale = _normalisation(train, kept)

    def normalised(source: FeatureSource, rows: Tensor, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        features = source.features(rows, epoch)
        return (features - mean) * scale, source.labels[rows].to(features.device)

    heads = _train_heads(
        lambda rows, epoch: normalised(train, kept[rows], epoch),
        len(kept),
        mean,
        num_classes,
        spec,
        generator,
        progress,
    )
    held_out = _accuracies(heads, lambda rows: normalised(train, chosen[rows]), len(chosen))[0]
    best = held_out.masked_fill(~_finite(heads), -1.0).argmax(0)  # (P,)
    top1, top5 = (
        accuracy.gather(0, best[None])[0].tolist()
        for accuracy in _accuracies(heads, lambda rows: normalised(test, rows), len(test.labels))
    )
    return ProbeResult(positions, top1, top5, [spec.base_lrs[i] for i in best.tolist()])


def _finite(heads: tuple[Tensor, Tensor]) -> Tensor:
    """Which heads (L, P) have only finite weights.

    Raises:
        DataError: at some position none has.
    """
    found = torch.isfinite(heads[0]).all(dim=(2, 3)) & torch.isfinite(heads[1]).all(dim=2)
    if not found.any(0).all():
        raise DataError("probe.base_lrs: with none of these rates the probe's weights stay finite; give smaller ones.")
    return found


def _normalisation(source: FeatureSource, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation (P, D) of images' features over all views that are trained on; float64 sums."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for features in source.passes(rows):
        wide = features.double()
        count += len(wide)
        total, squares = total.to(wide) + wide.sum(0), squares.to(wide) + wide.square().sum(0)
    mean = total / count
    if not (torch.isfinite(mean).all() and torch.isfinite(squares).all()):
        raise DataError(
            "probe: the model's features are not all finite numbers, so nothing can be told from them; "
            "with probe.feature_dtype: fp16 they may have been too large for it, so try fp32."
        )
    variance = (squares / count - mean.square()).clamp(min=0)
    return mean.float(), torch.rsqrt(variance + EPSILON).float()


def _train_heads(
    batch_of: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    count: int,
    like: Tensor,
    num_classes: int,
    spec: ProbeSpec,
    generator: torch.Generator,
    progress: Callable[[int, int], None],
) -> tuple[Tensor, Tensor]:
    rates, (places, dim), device = len(spec.base_lrs), like.shape, like.device
    batch = min(spec.batch_size, count)
    per_epoch = count // batch
    peak = torch.tensor(spec.base_lrs, device=device) * batch / 256
    weight = torch.empty(rates, places, dim, num_classes)
    torch.nn.init.trunc_normal_(weight, std=0.01, generator=generator)
    weight = weight.to(device).requires_grad_()
    bias = torch.zeros(rates, places, num_classes, device=device, requires_grad=True)
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    part = max(1, LOGITS // (rates * places * num_classes))
    for epoch in range(spec.epochs):
        order = torch.randperm(count, generator=generator)
        for i in range(per_epoch):
            for rows in order[i * batch : (i + 1) * batch].split(part):
                x, labels = batch_of(rows, epoch)
                (_head_losses((weight, bias), x, labels).sum() / batch).backward()
            gradients = [_taken(weight), _taken(bias)]
            _lars((weight, bias), gradients, momentum, peak * _schedule(epoch + i / per_epoch, spec))
        progress(epoch + 1, spec.epochs)
    return weight.detach(), bias.detach()


def _taken(parameter: Tensor) -> Tensor:
    gradient, parameter.grad = parameter.grad, None
    assert gradient is not None
    return gradient


def _logits(heads: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """Logits (L, P, classes, n) of n images: softmax over few classes is five times as fast with the images inside."""
    return torch.einsum("npd,rpdc->rpcn", x, heads[0]).contiguous() + heads[1][..., None]


def _head_losses(heads: tuple[Tensor, Tensor], x: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropies (L, P, n) of n images for all heads."""
    logits = _logits(heads, x).flatten(0, 1)  # (L P, classes, n)
    losses = F.cross_entropy(logits, labels.expand(len(logits), -1), reduction="none")
    return losses.view(*heads[0].shape[:2], -1)


@torch.no_grad()
def _lars(heads: tuple[Tensor, Tensor], gradients: list[Tensor], momentum: list[Tensor], rates: Tensor) -> None:
    """One LARS step. Each head has its own norms; the bias is updated without a trust ratio."""
    weight_norm = heads[0].norm(dim=(2, 3), keepdim=True)
    gradient_norm = gradients[0].norm(dim=(2, 3), keepdim=True)
    trust = torch.where(
        (weight_norm > 0) & (gradient_norm > 0), TRUST * weight_norm / gradient_norm, torch.ones_like(weight_norm)
    )
    for parameter, update, buffer in zip(heads, (trust * gradients[0], gradients[1]), momentum, strict=True):
        buffer.mul_(MOMENTUM).add_(update)
        parameter.sub_(rates.view(-1, *[1] * (parameter.ndim - 1)) * buffer)


def _schedule(epoch: float, spec: ProbeSpec) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine to zero."""
    if epoch < spec.warmup_epochs:
        return epoch / spec.warmup_epochs
    return 0.5 * (1 + math.cos(math.pi * (epoch - spec.warmup_epochs) / max(1e-9, spec.epochs - spec.warmup_epochs)))


@torch.no_grad()
def _accuracies(
    heads: tuple[Tensor, Tensor], batch_of: Callable[[Tensor], tuple[Tensor, Tensor]], count: int
) -> tuple[Tensor, Tensor]:
    """Top-1 and top-5 of all heads, (L, P) each."""
    rates, places, _, classes = heads[0].shape
    hits = torch.zeros(2, rates, places, dtype=torch.float64, device=heads[0].device)
    for rows in torch.arange(count).split(min(TESTED, max(1, LOGITS // (rates * places * classes)))):
        x, truth = batch_of(rows)
        if not torch.isfinite(x).all():
            raise DataError(
                "probe: features of images that only test are not finite numbers; try probe.feature_dtype: fp32."
            )
        right = _logits(heads, x).topk(min(5, classes), dim=-2).indices == truth  # (L, P, 5, n)
        hits += torch.stack([right[:, :, 0].double().sum(-1), right.any(-2).double().sum(-1)])
    top1, top5 = hits / count
    return top1, top5

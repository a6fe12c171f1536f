"""Linear probe to MAE's protocol: normalised frozen features, one linear layer, LARS, no weight decay.

All positions and all learning rates train at once: the heads are one tensor W (L rates, P positions, D, classes).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from star.model.gpt import GPT
from star.spec.sections import ProbeSpec

MOMENTUM = 0.9
TRUST = 0.001


@dataclass
class ProbeResult:
    """Accuracies on the test images."""

    positions: list[int]
    """1-based positions, T/n, ..., T."""
    accuracy: list[float]
    """At each position, of the rate that was best on held-out training images."""
    best_lr: list[float]
    """That rate, per 256 images."""


def probe_positions(count: int, length: int) -> list[int]:
    """`count` equally spaced 1-based positions up to T. Position p is the input whose output predicts code p."""
    return [round(length * (i + 1) / count) for i in range(count)]


@torch.no_grad()
def collect(
    model: GPT, codes: Callable[[int, int], Tensor], count: int, layer: int, positions: list[int], batch_size: int
) -> Tensor:
    """Features (N, P, D) of one pass over the backbone: after `layer`, null label, unmasked.

    Args:
        codes: gives the codes (b, T) of images first to last.
    """
    index = torch.tensor(positions) - 1
    parts = []
    for first in range(0, count, batch_size):
        batch = codes(first, min(first + batch_size, count))
        labels = torch.full((len(batch),), model.null_label, device=batch.device)
        parts.append(model.hidden_at(batch, labels, layer)[:, index.to(batch.device)].float())
    return torch.cat(parts)


def train_probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    num_classes: int,
    spec: ProbeSpec,
    positions: list[int],
    seed: int,
    progress: Callable[[int, int], None],
) -> ProbeResult:
    """Train all heads on features (N, P, D) and labels (N,), choose each position's rate on held-out ones, then test."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train[1]), generator=generator).to(train[1].device)
    held = max(1, round(spec.holdout * len(order)))
    chosen, kept = order[:held], order[held:]
    # features are frozen, so BatchNorm's statistics are constants: those of the images trained on
    variance, mean = torch.var_mean(train[0][kept], dim=0, correction=0)
    scale = torch.rsqrt(variance + 1e-6)
    heads = _train_heads((train[0][kept] - mean) * scale, train[1][kept], num_classes, spec, generator, progress)
    best = _accuracy(heads, (train[0][chosen] - mean) * scale, train[1][chosen]).argmax(0)  # (P,)
    tested = _accuracy(heads, (test[0] - mean) * scale, test[1])
    accuracy = tested.gather(0, best[None])[0].tolist()
    return ProbeResult(positions, accuracy, [spec.base_lrs[i] for i in best.tolist()])


def _train_heads(
    x: Tensor,
    labels: Tensor,
    num_classes: int,
    spec: ProbeSpec,
    generator: torch.Generator,
    progress: Callable[[int, int], None],
) -> tuple[Tensor, Tensor]:
    rates, (count, places, dim), device = len(spec.base_lrs), x.shape, x.device
    batch = min(spec.batch_size, count)
    per_epoch = count // batch
    peak = torch.tensor(spec.base_lrs, device=device) * batch / 256
    weight = torch.empty(rates, places, dim, num_classes)
    torch.nn.init.trunc_normal_(weight, std=0.01, generator=generator)
    weight = weight.to(device).requires_grad_()
    bias = torch.zeros(rates, places, num_classes, device=device, requires_grad=True)
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for epoch in range(spec.epochs):
        order = torch.randperm(count, generator=generator).to(device)
        for i in range(per_epoch):
            rows = order[i * batch : (i + 1) * batch]
            loss = _head_losses((weight, bias), x[rows], labels[rows]).sum()
            gradients = torch.autograd.grad(loss, [weight, bias])
            _lars((weight, bias), gradients, momentum, peak * _schedule(epoch + i / per_epoch, spec))
        progress(epoch + 1, spec.epochs)
    return weight.detach(), bias.detach()


def _logits(heads: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    return torch.einsum("npd,rpdc->rpnc", x, heads[0]) + heads[1][:, :, None]


def _head_losses(heads: tuple[Tensor, Tensor], x: Tensor, labels: Tensor) -> Tensor:
    logits = _logits(heads, x)
    targets = labels.expand(*logits.shape[:2], -1)
    return (
        F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none").view(logits.shape[:3]).mean(-1)
    )  # (L, P)


@torch.no_grad()
def _lars(heads: tuple[Tensor, Tensor], gradients: tuple[Tensor, ...], momentum: list[Tensor], rates: Tensor) -> None:
    """One LARS step, each head with its own norms; the bias takes no trust ratio."""
    weight_norm = heads[0].norm(dim=(2, 3), keepdim=True)
    gradient_norm = gradients[0].norm(dim=(2, 3), keepdim=True)
    trust = torch.where(
        (weight_norm > 0) & (gradient_norm > 0), TRUST * weight_norm / gradient_norm, torch.ones_like(weight_norm)
    )
    for parameter, update, buffer in zip(heads, (trust * gradients[0], gradients[1]), momentum, strict=True):
        buffer.mul_(MOMENTUM).add_(update)
        parameter.sub_(rates.view(-1, *[1] * (parameter.ndim - 1)) * buffer)


def _schedule(epoch: float, spec: ProbeSpec) -> float:
    """Factor of the rate: linear warm-up, then a cosine to zero."""
    if epoch < spec.warmup_epochs:
        return epoch / spec.warmup_epochs
    return 0.5 * (1 + math.cos(math.pi * (epoch - spec.warmup_epochs) / max(1e-9, spec.epochs - spec.warmup_epochs)))


@torch.no_grad()
def _accuracy(heads: tuple[Tensor, Tensor], x: Tensor, labels: Tensor) -> Tensor:
    """(L, P)."""
    hits = [
        (_logits(heads, part).argmax(-1) == truth).double().sum(-1)
        for part, truth in zip(x.split(2048), labels.split(2048), strict=True)
    ]
    return torch.stack(hits).sum(0) / len(labels)

"""AdamW as LlamaGen uses it, and the learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from star.pipeline.config.train import OptimSpec


def build_adamw(parameters: Iterable[nn.Parameter], spec: OptimSpec) -> torch.optim.AdamW:
    """AdamW whose weight decay touches only tensors of two or more dimensions."""
    trained = list(parameters)
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=peak_lr(spec), betas=(spec.beta1, spec.beta2), fused=True)


def peak_lr(spec: OptimSpec) -> float:
    """The peak learning rate for the spec's batch size; the spec gives it per 256 images."""
    return spec.lr * spec.batch_size / 256


def lr_at(step: int, total: int, spec: OptimSpec) -> float:
    """The learning rate of optimizer step `step` (from 0): linear warm-up, then constant or a cosine to zero."""
    peak = peak_lr(spec)
    if step < spec.warmup_steps:
        return peak * (step + 1) / spec.warmup_steps
    if spec.schedule == "constant":
        return peak
    done = (step - spec.warmup_steps) / max(1, total - spec.warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * done))

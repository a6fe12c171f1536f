"""Sampling codes: key-value cache, classifier-free guidance, temperature, top-k, top-p.

Every image and position has one uniform number, drawn from the seed alone, and the code is read off the cumulative
distribution. So an image depends on its seed, its index and its label, not on the batch it was sampled in.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from star.model.gpt import GPT
from star.pipeline.config.generate import GenerateSpec


class KVCache:
    """Keys and values of one layer, in buffers of full length."""

    def __init__(self, batch: int, heads: int, length: int, head_dim: int, like: Tensor) -> None:
        self.key = like.new_empty(batch, heads, length, head_dim)
        self.value = torch.empty_like(self.key)
        self.filled = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, H, t, d) of the next t positions; return views of those of all positions so far."""
        end = self.filled + key.shape[2]
        self.key[:, :, self.filled : end] = key
        self.value[:, :, self.filled : end] = value
        self.filled = end
        return self.key[:, :, :end], self.value[:, :, :end]


class Decoder:
    """Decodes position by position with a key-value cache. `logits` equals the uncached forward at that position."""

    def __init__(self, model: GPT, batch: int) -> None:
        spec, weight = model.spec, model.output.weight
        self.model = model
        self.position = 0
        self.caches = [
            KVCache(batch, spec.n_head, model.grid**2, spec.dim // spec.n_head, weight) for _ in model.layers
        ]

    def logits(self, embedded: Tensor) -> Tensor:
        """Logits (B, V) after the next input, whose embedding is `embedded` (B, 1, D)."""
        rope = self.model.rope[:, self.position : self.position + 1]
        for block, cache in zip(self.model.layers, self.caches, strict=True):
            embedded = block(embedded, rope, None, None, cache)
        self.position += 1
        return self.model.output(self.model.norm(embedded))[:, 0]


@torch.no_grad()
def sample(model: GPT, labels: Tensor, noise: Tensor, spec: GenerateSpec) -> Tensor:
    """Sample codes (B, T) for labels (B,).

    Args:
        model: in evaluation mode.
        noise: (B, T) uniform numbers in [0, 1), float64.
        spec: guidance and filters. With scale s, logits are uncond + s (cond - uncond).
    """
    assert not model.training, "sampling wants the model in evaluation mode"
    guided = spec.cfg_scale > 1
    rows = torch.cat([labels, torch.full_like(labels, model.null_label)]) if guided else labels
    decoder = Decoder(model, len(rows))
    embedded = model.cls_embedding(rows)
    codes = []
    for position in range(model.grid**2):
        logits = decoder.logits(embedded)
        if guided:
            conditional, unconditional = logits.chunk(2)
            scale = spec.cfg_scale if spec.cfg_until is None or position < spec.cfg_until else 1.0
            logits = unconditional + scale * (conditional - unconditional)
        code = draw(filtered(logits / spec.temperature, spec.top_k, spec.top_p), noise[:, position])
        codes.append(code)
        embedded = model.tok_embeddings(torch.cat([code, code]) if guided else code)[:, None]
    return torch.stack(codes, dim=1)


def in_bfloat16(model: GPT) -> GPT:
    """Convert the model to bfloat16 in place, but not its rotary table, as LlamaGen does to sample."""
    rope = model.rope
    model = model.to(torch.bfloat16)
    model.rope = rope
    return model


def filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits (B, V) with -inf outside the top_k largest and outside the smallest set of mass above top_p.

    If the mass of the likeliest codes is exactly top_p, one more is kept, as in LlamaGen.
    """
    if top_k:
        threshold = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    if top_p < 1:
        ordered, order = logits.sort(descending=True)
        before = F.pad(F.softmax(ordered, dim=-1).cumsum(-1), (1, -1))
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before > top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """The code (B,) at which the cumulative probability passes `uniform` (B,)."""
    cumulative = F.softmax(logits.double(), dim=-1).cumsum(-1)
    # scaled by the total, which rounding leaves slightly off 1; `right` so that codes of probability 0 are never drawn
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0].clamp(
        max=logits.shape[-1] - 1
    )


def noise_for(seed: int, first: int, count: int, length: int) -> Tensor:
    """The uniform numbers (count, length) of images first, first + 1, ...: each image has its own generator.

    The generators are NumPy's, because torch's CPU generator uses only the lowest 32 bits of a seed.
    """
    rows = [np.random.default_rng((seed, 6, index)).random(length) for index in range(first, first + count)]
    return torch.from_numpy(np.stack(rows))

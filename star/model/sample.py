"""Sampling codes: key-value cache, classifier-free guidance, temperature, top-k, top-p.

Every image and position has one uniform number, drawn from the seed alone, and the code is read off the cumulative
distribution. So an image depends on its seed, its index and its label, not on the batch it was sampled in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from star.model.gpt import GPT, Block
from star.pipeline.config.generate import GenerateSpec
from star.pipeline.generate import COLDEST

STRIDE = 32
"""On a GPU the cache is read in steps of so many places, those to come hidden: attention kernels are chosen per length."""

LIKELIEST = 256
"""Codes that are sorted at first to find those that hold the mass top_p."""


@cache
def _block_parts(compiled: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`Block.enter` and `Block.leave`. Each is compiled once for all blocks and positions: only the cache grows."""
    if not compiled:
        return Block.enter, Block.leave
    return torch.compile(Block.enter, dynamic=False), torch.compile(Block.leave, dynamic=False)


class Decoder:
    """Decodes position by position with a key-value cache. `logits` equals the uncached forward at that position."""

    def __init__(self, model: GPT, batch: int, compiled: bool = False) -> None:
        spec, weight = model.spec, model.output.weight
        self.model = model
        self.position = 0
        self.enter, self.leave = _block_parts(compiled)
        shape = (2, batch, spec.n_head, model.grid**2, spec.dim // spec.n_head)
        self.caches = [weight.new_zeros(shape) for _ in model.layers]  # keys and values, (2, B, H, T, d) for each layer
        self.places = torch.arange(model.grid**2, device=weight.device) if weight.is_cuda else None

    def logits(self, embedded: Tensor) -> Tensor:
        """Logits (B, V), float32, after the next input, whose embedding is `embedded` (B, 1, D)."""
        here, end, seen = slice(self.position, self.position + 1), self.position + 1, None
        rope = self.model.rope[:, here]
        if self.places is not None:
            end = -(-end // STRIDE) * STRIDE
            seen = (self.places[:end] <= self.position)[None, None, None]
        for block, (keys, values) in zip(self.model.layers, self.caches, strict=True):
            query, keys[:, :, here], values[:, :, here] = self.enter(block, embedded, rope)
            mixed = F.scaled_dot_product_attention(query, keys[:, :, :end], values[:, :, :end], attn_mask=seen)
            embedded = self.leave(block, embedded, mixed)
        self.position += 1
        return self.model.output(self.model.norm(embedded))[:, 0].float()  # as LlamaGen: what follows is in fp32


@torch.no_grad()
def sample(model: GPT, labels: Tensor, noise: Tensor, spec: GenerateSpec, compiled: bool = False) -> Tensor:
    """Sample codes (B, T) for labels (B,).

    Args:
        model: in evaluation mode.
        noise: (B, T) uniform numbers in [0, 1), float64.
        spec: guidance and filters. With scale s, logits are uncond + s (cond - uncond).
        compiled: compile the parts of the blocks.
    """
    assert not model.training, "sampling wants the model in evaluation mode"
    guided = spec.cfg_scale > 1
    rows = torch.cat([labels, torch.full_like(labels, model.null_label)]) if guided else labels
    decoder = Decoder(model, len(rows), compiled)
    embedded = model.cls_embedding(rows)
    codes = []
    for position in range(model.grid**2):
        logits = decoder.logits(embedded)
        if guided:
            conditional, unconditional = logits.chunk(2)
            scale = spec.cfg_scale if spec.cfg_until is None or position < spec.cfg_until else 1.0
            logits = unconditional + scale * (conditional - unconditional)
        code = draw(filtered(logits / max(spec.temperature, COLDEST), spec.top_k, spec.top_p), noise[:, position])
        codes.append(code)
        embedded = model.tok_embeddings(code)[:, None]
        if guided:
            embedded = embedded.repeat(2, 1, 1)
    return torch.stack(codes, dim=1)


class Sampler:
    """`sample` for many batches of one size. On a GPU all its kernels are launched at once, as one CUDA graph.

    A position is hundreds of kernels of a few microseconds, so launching them one by one takes six times as long as
    running them. A batch of fewer rows is filled up; that changes no row.
    """

    def __init__(self, model: GPT, batch: int, spec: GenerateSpec, compiled: bool = False) -> None:
        self.model, self.batch, self.spec, self.compiled = model, batch, spec, compiled
        self.graph: torch.cuda.CUDAGraph | None = None
        weight = model.output.weight
        if weight.is_cuda:
            self.labels = torch.zeros(batch, dtype=torch.long, device=weight.device)
            self.noise = torch.zeros(batch, model.grid**2, dtype=torch.float64, device=weight.device)
            self._capture()

    def __call__(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Codes (B, T) for labels (B,) and noise (B, T), of at most `batch` rows."""
        if self.graph is None:
            return sample(self.model, labels, noise, self.spec, self.compiled)
        count = len(labels)
        self.labels[:count] = labels
        self.noise[:count] = noise
        self.graph.replay()
        return self.codes[:count].clone()

    def _capture(self) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # loads and compiles the kernels, which a graph cannot
            sample(self.model, self.labels, self.noise, self.spec, self.compiled)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.codes = sample(self.model, self.labels, self.noise, self.spec, self.compiled)


def in_bfloat16(model: GPT) -> GPT:
    """Convert the model to bfloat16 in place, but not its rotary table, as LlamaGen does to sample."""
    rope = model.rope
    model = model.to(torch.bfloat16)
    model.rope = rope
    return model


def filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits (B, V) with -inf outside the top_k largest, then outside the smallest set of the rest's mass above top_p.

    Codes level with the k-th are kept too. If the mass of the likeliest codes is exactly top_p, one more is kept, as in LlamaGen.

    Args:
        top_k: 0 keeps all.
        top_p: above 0 to 1; 1 keeps all.
    """
    if top_k:
        threshold = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    if top_p < 1:
        mass, order = _largest(F.softmax(logits, dim=-1), top_p)
        dropped = torch.ones_like(logits, dtype=torch.bool).scatter(1, order, F.pad(mass, (1, -1)) > top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return logits


def _largest(probabilities: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """Cumulative sums (B, k) of the likeliest codes and the codes, likeliest first: so many that each row passes `mass`.

    Few of thousands of codes hold most of the mass, so all are sorted only if they must be, or on a GPU: counting there
    would make the CPU wait.
    """
    count = LIKELIEST
    while count < probabilities.shape[-1] and not probabilities.is_cuda:
        values, order = probabilities.topk(count)
        sums = values.cumsum(-1)
        if bool((sums[:, -1] > mass).all()):
            return sums, order
        count *= 8
    values, order = probabilities.sort(descending=True)
    return values.cumsum(-1), order


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """The code (B,) long at which the cumulative probability of logits (B, V) passes `uniform` (B,), float64 in [0, 1)."""
    cumulative = F.softmax(logits, dim=-1, dtype=torch.float64).cumsum(-1)
    # scaled by the total, which rounding leaves slightly off 1; `right` so that codes of probability 0 are never drawn
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0].clamp(
        max=logits.shape[-1] - 1
    )


def noise_for(seed: int, first: int, count: int, length: int) -> Tensor:
    """The uniform numbers (count, length), float64 in [0, 1), of images first, first + 1, ...: each image has its own generator.

    The generators are NumPy's, because torch's CPU generator uses only the lowest 32 bits of a seed.
    """
    rows = [np.random.default_rng((seed, 6, index)).random(length) for index in range(first, first + count)]
    return torch.from_numpy(np.stack(rows))

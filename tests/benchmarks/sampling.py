"""Sampling LlamaGen-B with guidance on the CPU, against a loop as LlamaGen's: `python -m tests.benchmarks.sampling [IMAGES] [CODES]`.

The loop has the same weights. As LlamaGen's, it holds keys and values for all positions, attends to all of them under a mask,
computes each layer in PyTorch's own operations, and draws by `multinomial`. The two take turns.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from star.model.gpt import GPT
from star.model.sample import Sampler, noise_for
from star.pipeline.config.generate import GenerateSpec
from star.spec.load import load
from star.torch_setup import keep_freed_memory, repeatable
from tests.helpers import ROOT

ROUNDS = 3


def model(codes: int) -> GPT:
    """LlamaGen-B with random weights."""
    spec = load(ROOT / "experiments" / "table1.yaml", "imagenet256").variants[0].runs[0]
    torch.manual_seed(0)
    found = GPT(spec.model, spec.tokenizer.codebook_size, spec.data.num_classes, math.isqrt(codes)).eval()
    torch.nn.init.normal_(found.output.weight, std=0.02)
    return found


def rms(x: Tensor, norm: Any) -> Tensor:
    """Root mean square norm, operation by operation."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)).type_as(x) * norm.weight


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x (B, 1, H, d) with each pair of neighbours turned by its angle."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2).type_as(x)


@torch.no_grad()
def loop(model: GPT, labels: Tensor, scale: float) -> Tensor:
    """Codes (B, T), one position at a time."""
    rows, length, heads, dim = 2 * len(labels), model.grid**2, model.spec.n_head, model.spec.dim
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    caches = [torch.zeros(2, rows, heads, length, dim // heads) for _ in model.layers]
    angles = torch.rand(length, dim // heads // 2)  # which angles they are costs nothing
    x = model.cls_embedding(torch.cat([labels, torch.full_like(labels, model.null_label)]))
    codes = []
    for position in range(length):
        here = torch.tensor([position])
        cosine, sine = angles[position].cos(), angles[position].sin()
        for block, cache in zip(model.layers, caches, strict=True):
            layer: Any = block
            mixed = rms(x, layer.attention_norm)
            query, key, value = F.linear(mixed, layer.attention.wqkv.weight).chunk(3, -1)
            query, key, value = (part.view(rows, 1, heads, -1) for part in (query, key, value))
            query, key = turned(query, cosine, sine), turned(key, cosine, sine)
            cache[0][:, :, here], cache[1][:, :, here] = key.transpose(1, 2), value.transpose(1, 2)
            seen = mask[None, None, here]
            mixed = F.scaled_dot_product_attention(query.transpose(1, 2), cache[0], cache[1], attn_mask=seen)
            x = x + F.linear(mixed.transpose(1, 2).reshape(rows, 1, dim), layer.attention.wo.weight)
            hidden, ffn = rms(x, layer.ffn_norm), layer.feed_forward
            x = x + F.linear(F.silu(F.linear(hidden, ffn.w1.weight)) * F.linear(hidden, ffn.w3.weight), ffn.w2.weight)
        logits = F.linear(rms(x, model.norm), model.output.weight)[:, -1].float()
        conditional, free = logits.split(len(labels))
        code = torch.multinomial(F.softmax(free + scale * (conditional - free), dim=-1), 1)
        codes.append(code)
        x = model.tok_embeddings(torch.cat([code, code]))
    return torch.cat(codes, dim=1)


def main(images: int, codes: int) -> None:
    """Print seconds for each, and the ratio."""
    keep_freed_memory()
    repeatable(torch.get_num_threads())
    made, spec = model(codes), GenerateSpec(cfg_scale=2.0)
    labels, noise = torch.arange(images) % 1000, noise_for(0, 0, images, codes)
    sampler = Sampler(made, images, spec)
    kinds = {"star": lambda: sampler(labels, noise), "a loop as LlamaGen's": lambda: loop(made, labels, 2.0)}
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, work in kinds.items():
            began = time.perf_counter()
            with torch.no_grad():
                work()
            taken[name].append(time.perf_counter() - began)
    weights = sum(parameter.numel() for parameter in made.layers.parameters()) + made.output.weight.numel()
    print(
        f"{images} images of {codes} codes, guidance, {torch.get_num_threads()} threads; {weights / 1e6:.0f} M weights a code"
    )
    for name, each in taken.items():
        print(f"  {name:<22} {statistics.median(each):7.2f} s")
    star, other = (statistics.median(each) for each in taken.values())
    print(f"  ratio {other / star:.2f}")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*(numbers + [8, 256][len(numbers) :]))

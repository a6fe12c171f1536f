"""The transformer of the LlamaGen family; parameter names are those of LlamaGen's checkpoints.

Shapes: B sequences, T codes of a g x g grid in raster order, D channels, H heads, V codes in the codebook.
The input sequence is the condition followed by codes 1 to T-1; output p (1-based) predicts code p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star.model.dropout import SequenceDropout, layer_seeds
from star.model.kernels import Linear, rms_norm, rotate
from star.pipeline.config.model import ModelSpec


def rope_table(grid: int, head_dim: int, base: float) -> Tensor:
    """Cosines and signed sines of LlamaGen's 2-D rotary embedding, (2, T, head_dim) float32, for `rotate`; place 0 is the condition.

    The first half of a head's channel pairs rotates with the row, the second with the column. The condition's entry is
    zero, not (cos 0, sin 0) = (1, 0), so its query and key are zero. LlamaGen's checkpoints depend on it.

    Args:
        grid: g, cells along a side; T = g * g.
        head_dim: channels of a head, a multiple of 4.
        base: of the rates base^(-i / (head_dim / 4)); 10000 in LlamaGen.
    """
    return all_rotations(grid, head_dim, base)[:, : grid * grid]


def all_rotations(grid: int, head_dim: int, base: float) -> Tensor:
    """`rope_table` with the last cell too, (2, T + 1, head_dim), which is an input in other orders alone."""
    quarter = head_dim // 4
    rates = base ** -(torch.arange(quarter) / quarter)
    angles = torch.outer(torch.arange(grid), rates)  # (g, quarter)
    rows = angles[:, None].expand(grid, grid, quarter)
    columns = angles[None, :].expand(grid, grid, quarter)
    pairs = torch.cat([rows, columns], dim=-1).reshape(grid * grid, 2 * quarter)
    cos = pairs.cos().repeat_interleave(2, dim=-1)
    sin = torch.stack([-pairs.sin(), pairs.sin()], dim=-1).flatten(-2)
    table = torch.stack([cos, sin])  # (2, T, d)
    return torch.cat([torch.zeros(2, 1, head_dim), table], dim=1)


class RMSNorm(nn.Module):
    """Root mean square norm, computed in float32 (in float64 for float64 input)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Multi-head attention with one fused projection."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.n_head = spec.n_head
        self.wqkv = Linear(spec.dim, 3 * spec.dim, bias=False)
        self.wo = Linear(spec.dim, spec.dim, bias=False)
        self.dropout = SequenceDropout(spec.residual_dropout, site=1)

    def heads(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of x (B, t, D), (B, H, t, d) each; query and key are rotated."""
        heads = self.wqkv(x).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, t, d)
        turned, value = heads.split((2, 1))  # two slices would each fill a gradient of all three with zeros
        query, key = rotate(turned, rope).unbind(0)
        return query, key, value[0]

    def joined(self, mixed: Tensor, seeds: Tensor | None) -> Tensor:
        """The output (B, t, D) for the heads' mixed values (B, H, t, d)."""
        return self.dropout(self.wo(mixed.transpose(1, 2).flatten(2)), seeds)


class FeedForward(nn.Module):
    """Feed-forward layer with SwiGLU."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.w1 = Linear(spec.dim, spec.ffn_hidden, bias=False)
        self.w3 = Linear(spec.dim, spec.ffn_hidden, bias=False)
        self.w2 = Linear(spec.ffn_hidden, spec.dim, bias=False)
        self.dropout = SequenceDropout(spec.ffn_dropout, site=2)

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        return self.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)), seeds)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with its residual.

    `enter` is what comes before positions are mixed, `leave` what comes after: sampling mixes with a cache in between.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.attention = Attention(spec)
        self.feed_forward = FeedForward(spec)
        self.attention_norm = RMSNorm(spec.dim, spec.norm_eps)
        self.ffn_norm = RMSNorm(spec.dim, spec.norm_eps)

    def enter(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of x (B, t, D), (B, H, t, d) each."""
        return self.attention.heads(self.attention_norm(x), rope)

    def leave(self, x: Tensor, mixed: Tensor, seeds: Tensor | None = None) -> Tensor:
        """The block's output (B, t, D) for its input x and the heads' mixed values (B, H, t, d)."""
        x = x + self.attention.joined(mixed, seeds)
        return x + self.feed_forward(self.ffn_norm(x), seeds)

    def forward(self, x: Tensor, rope: Tensor, attend: Tensor | None, seeds: Tensor | None = None) -> Tensor:
        query, key, value = self.enter(x, rope)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attend, is_causal=attend is None)
        return self.leave(x, mixed, seeds)


class ClassEmbedding(nn.Module):
    """Class embeddings: one row per class, and a last one for the null label. Labels are dropped outside the model."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, dim)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)[:, None]  # (B, 1, D)


@dataclass
class Features:
    """Hidden states of one pass, (B, T, D) each."""

    layer_features: dict[int, Tensor]
    """Output of each requested layer, before any norm."""
    pre_norm: Tensor
    """Output of the last layer, before the final norm."""
    final: Tensor
    """Output of the final norm, which the head reads."""


class GPT(nn.Module):
    """LlamaGen's class-conditional next-code transformer (Sun et al. 2024), with weights from the global generator.

    Args:
        vocab_size: V, codes in the codebook.
        num_classes: classes; the label of this number is the null label.
        grid: g, codes along a side; T = g * g.
    """

    def __init__(self, spec: ModelSpec, vocab_size: int, num_classes: int, grid: int) -> None:
        super().__init__()
        self.spec = spec
        self.grid = grid
        self.null_label = num_classes
        self.cls_embedding = ClassEmbedding(num_classes, spec.dim)
        self.tok_embeddings = nn.Embedding(vocab_size, spec.dim)
        self.tok_dropout = SequenceDropout(spec.token_dropout, site=0)
        self.layers = nn.ModuleList(Block(spec) for _ in range(spec.n_layer))
        self.norm = RMSNorm(spec.dim, spec.norm_eps)
        self.output = Linear(spec.dim, vocab_size, bias=False)
        self.rope: Tensor
        self.register_buffer("rope", rope_table(grid, spec.dim // spec.n_head, spec.rope_base), persistent=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw linear and embedding weights from normal(0, init_std) and set the head to zero; norms stay at one."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.spec.init_std)
        nn.init.zeros_(self.output.weight)

    @property
    def dim(self) -> int:
        """Channels of the hidden states."""
        return self.spec.dim

    def embed(self, codes: Tensor, labels: Tensor, seeds: Tensor | None = None) -> Tensor:
        """The input sequence (B, T, D): condition, then all codes but the last."""
        embedded = torch.cat([self.cls_embedding(labels), self.tok_embeddings(codes[:, :-1])], dim=1)
        return self.tok_dropout(embedded, seeds)

    def features(
        self,
        codes: Tensor,
        labels: Tensor,
        attend: Tensor | None = None,
        layers: Sequence[int] = (),
        seeds: Tensor | None = None,
    ) -> Features:
        """Hidden states of all positions.

        Args:
            codes: (B, T) long.
            labels: (B,) long; `null_label` means no condition.
            attend: (B, 1, T, T) bool, True where a query sees a key; plain causal when None.
            layers: 1-based layers whose output is kept as `layer_features`.
            seeds: (B,) int32, the dropout seed of each sequence; no dropout when None.
        """
        return self.run(self.embed(codes, labels, seeds), self.rope, attend, layers, seeds)

    def run(
        self,
        x: Tensor,
        rope: Tensor,
        attend: Tensor | None = None,
        layers: Sequence[int] = (),
        seeds: Tensor | None = None,
    ) -> Features:
        """Hidden states of any embedded sequence.

        Args:
            x: (B, t, D).
            rope: (2, t, d), the rotation of each place as in `rope_table`; (2, B, 1, t, d) if sequences differ.
            attend, layers, seeds: as in `features`.

        Raises:
            ValueError: there is no such layer.
        """
        for layer in layers:
            if not 1 <= layer <= len(self.layers):
                raise ValueError(f"layer {layer}: this model has the layers 1 to {len(self.layers)}")
        layer_features = {}
        for number, block in enumerate(self.layers, start=1):
            x = block(x, rope, attend, layer_seeds(seeds, number))
            if number in layers:
                layer_features[number] = x
        return Features(layer_features, x, self.norm(x))

    def through(self, arrange: Callable[[GPT], Features]) -> Features:
        """Call a function of this model as one forward pass of it, for which FSDP gathers the weights."""
        return arrange(self)

    def hidden_at(self, codes: Tensor, labels: Tensor, layer: int) -> Tensor:
        """The output of a 1-based layer, (B, T, D); the layers above it are not computed."""
        x = self.embed(codes, labels)
        for block in self.layers[:layer]:
            x = block(x, self.rope, None)
        return x

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, T, V): those at p predict code p from the condition and the codes before."""
        return self.output(self.features(codes, labels).final)

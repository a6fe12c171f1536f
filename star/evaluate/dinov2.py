"""DINOv2's vision transformer, to read its published weights (arXiv 2304.07193); parameter names are those of its files."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star.pipeline.features import VitSize
from star.weights import fit, load_weights

PATCH = 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFSET = 0.1
"""Added to the side when positions are interpolated, as its code does against rounding."""


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = _Attention(dim, heads), _Mlp(dim)
        self.ls1, self.ls2 = _Scale(dim), _Scale(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Patches(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).mT


class DinoV2(nn.Module):
    """The transformer without register tokens.

    Args:
        positions: patches along a side for which the weights have positions; 37 in the published files.
    """

    def __init__(self, size: VitSize, positions: int = 37) -> None:
        super().__init__()
        dim, depth, heads = size
        self.patch_embed = _Patches(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + positions**2, dim))
        self.blocks = nn.ModuleList(_Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Normed patch tokens (B, g * g, D) of images (B, 3, 14 g, 14 g), normalised by ImageNet's mean and deviation."""
        side = images.shape[-1] // PATCH
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.patch_embed(images)], dim=1) + self._positions(
            side
        )
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:]

    def _positions(self, side: int) -> Tensor:
        """(1, 1 + side^2, D): the learnt positions, resized bicubically if they are of another grid."""
        own = round((self.pos_embed.shape[1] - 1) ** 0.5)
        if own == side:
            return self.pos_embed
        whole = self.pos_embed[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2)
        scale = (side + OFFSET) / own
        resized = F.interpolate(whole, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).mT], dim=1)


def load_dinov2(size: VitSize, weights: Path) -> DinoV2:
    """DINOv2 of this size with the weights in a published file.

    Raises:
        DataError: the file cannot be read, or does not fit.
    """
    state = load_weights(weights)
    known = state.get("pos_embed")
    model = DinoV2(size, 37 if known is None else round((known.shape[1] - 1) ** 0.5))
    fit(model, state, weights, "encoder")
    return model

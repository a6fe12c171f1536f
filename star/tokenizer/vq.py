"""LlamaGen's VQ model at any size; parameter names are those of its checkpoints.

Shapes: images (B, C, S, S) in [-1, 1]; latents (B, codebook_dim, g, g); codes (B, g, g) long.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star.pipeline.config.tokenizer import TokenizerSpec


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 32 groups as in LlamaGen, or with one per channel if a small model has fewer channels."""
    return nn.GroupNorm(min(32, channels), channels, eps=1e-6)


class ResBlock(nn.Module):
    """Residual block: norm, swish and 3 x 3 convolution, twice, plus a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = group_norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Single-head self-attention over the positions of the feature map, plus a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = (
            self.norm(x).flatten(2).mT.contiguous().unsqueeze(1)
        )  # (B, 1, g*g, C): torch's fast attention wants heads and rows
        query, key, value, out = (
            (part.weight.flatten(1), part.bias) for part in (self.q, self.k, self.v, self.proj_out)
        )
        mixed = F.scaled_dot_product_attention(F.linear(h, *query), F.linear(h, *key), F.linear(h, *value))
        return x + F.linear(mixed, *out).squeeze(1).mT.reshape(x.shape)


class Downsample(nn.Module):
    """Halve the resolution by a strided 3 x 3 convolution, after padding on the right and bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution by nearest neighbour, then a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one resolution, with attention at the lowest; Encoder and Decoder add resampling after it."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResBlock(inputs if i == 0 else outputs, outputs) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(outputs) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x


def middle(channels: int) -> nn.ModuleList:
    """The blocks in the middle, at the lowest resolution: residual, attention, residual."""
    return nn.ModuleList([ResBlock(channels, channels), AttnBlock(channels), ResBlock(channels, channels)])


class Encoder(nn.Module):
    """Encodes images (B, C, S, S) to a latent map (B, z_channels, g, g)."""

    def __init__(self, spec: TokenizerSpec, image_channels: int) -> None:
        super().__init__()
        widths = [spec.channels] + [spec.channels * mult for mult in spec.channel_mult]
        last = len(spec.channel_mult) - 1
        self.conv_in = nn.Conv2d(image_channels, spec.channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            level = Level(inputs, outputs, spec.res_blocks, attention=i == last)
            if i < last:
                level.downsample = Downsample(outputs)
            self.conv_blocks.append(level)
        self.mid = middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], spec.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.conv_blocks:
            x = level(x)
            if hasattr(level, "downsample"):
                x = cast(nn.Module, level.downsample)(x)
        for block in self.mid:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Decodes a latent map (B, z_channels, g, g) to images (B, C, S, S)."""

    def __init__(self, spec: TokenizerSpec, image_channels: int) -> None:
        super().__init__()
        reverse, channels = list(reversed(spec.channel_mult)), spec.decoder_channels or spec.channels
        widths = [channels * mult for mult in [reverse[0], *reverse]]
        last = len(reverse) - 1
        self.conv_in = nn.Conv2d(spec.z_channels, widths[0], 3, padding=1)
        self.mid = middle(widths[0])
        self.conv_blocks = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            level = Level(inputs, outputs, spec.res_blocks + 1, attention=i == 0)
            if i < last:
                level.upsample = Upsample(outputs)
            self.conv_blocks.append(level)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        z = self.conv_in(z)
        for block in self.mid:
            z = block(z)
        for level in self.conv_blocks:
            z = level(z)
            if hasattr(level, "upsample"):
                z = cast(nn.Module, level.upsample)(z)
        return self.conv_out(F.silu(self.norm_out(z)))


class Quantizer(nn.Module):
    """Finds the nearest code of the codebook, on the unit sphere if `l2_normalize` is set."""

    def __init__(self, spec: TokenizerSpec) -> None:
        super().__init__()
        self.normalize = spec.l2_normalize
        self.embedding = nn.Embedding(spec.codebook_size, spec.codebook_dim)
        nn.init.uniform_(self.embedding.weight, -1 / spec.codebook_size, 1 / spec.codebook_size)

    def on_sphere(self, x: Tensor) -> Tensor:
        """x scaled to unit norm along its last dimension if `l2_normalize` is set, else unchanged."""
        return F.normalize(x, dim=-1) if self.normalize else x

    def codes(self, latent: Tensor) -> Tensor:
        """The nearest codes (...) of latents (..., codebook_dim)."""
        book = self.on_sphere(self.embedding.weight)
        flat = self.on_sphere(latent).flatten(0, -2)
        distance = book.square().sum(-1) - 2 * flat @ book.T  # without |latent|^2, the same for every code
        return distance.argmin(-1).view(latent.shape[:-1])

    def vectors(self, codes: Tensor) -> Tensor:
        """The codebook's vectors (..., codebook_dim) of codes (...)."""
        return F.embedding(codes, self.on_sphere(self.embedding.weight))


def _laid_out(images: Tensor) -> Tensor:
    """Images (B, C, H, W) as the layers are fastest on them: on a CPU channel by channel, for group norm's sake."""
    return images.clone(memory_format=torch.contiguous_format) if images.device.type == "cpu" else images


class Quantized(NamedTuple):
    """A batch of images passed through the quantizer, channels last."""

    latent: Tensor
    """(B, g, g, codebook_dim): the encoder's output, on the unit sphere if `l2_normalize` is set."""
    vectors: Tensor
    """(B, g, g, codebook_dim): the vectors of the nearest codes."""
    codes: Tensor
    """(B, g, g) long: the nearest codes."""


class VQModel(nn.Module):
    """The VQ model: encoder, quantizer and decoder."""

    def __init__(self, spec: TokenizerSpec, image_channels: int) -> None:
        super().__init__()
        self.encoder = Encoder(spec, image_channels)
        self.decoder = Decoder(spec, image_channels)
        self.quantize = Quantizer(spec)
        self.quant_conv = nn.Conv2d(spec.z_channels, spec.codebook_dim, 1)
        self.post_quant_conv = nn.Conv2d(spec.codebook_dim, spec.z_channels, 1)

    def quantized(self, images: Tensor) -> Quantized:
        """Encode images (B, C, S, S): their latents, the nearest codes and the codes' vectors."""
        latent = self.quantize.on_sphere(
            self.quant_conv(self.encoder(_laid_out(images))).permute(0, 2, 3, 1).contiguous()
        )
        codes = self.quantize.codes(latent)
        return Quantized(latent, self.quantize.vectors(codes), codes)

    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, g*g) of images (B, C, S, S), in raster order."""
        return self.quantized(images).codes.flatten(1)

    @torch.no_grad()
    def codebook(self) -> Tensor:
        """The vector of every code, (codebook_size, codebook_dim), on the unit sphere if `l2_normalize` is set."""
        return self.quantize.on_sphere(self.quantize.embedding.weight)

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Images (B, C, S, S) decoded from code vectors (B, g, g, codebook_dim)."""
        latent = vectors.permute(0, 3, 1, 2).to(self.post_quant_conv.weight.dtype)
        return self.decoder(self.post_quant_conv(_laid_out(latent)))

    def decode(self, codes: Tensor) -> Tensor:
        """Images (B, C, S, S), roughly in [-1, 1], decoded from codes (B, g*g) in raster order."""
        side = round(codes.shape[1] ** 0.5)
        return self.decode_vectors(self.quantize.vectors(codes.view(-1, side, side)))

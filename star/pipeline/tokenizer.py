"""Stage `tokenizer`: the VQ model, trained or loaded; the section `tokenizer` of a run."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from star.pipeline.dataset import is_shuffled
from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun
    from star.pipeline.config.tokenizer import TokenizerSpec


REPORTED = 2000
"""Most test images that PSNR, the use of the codebook and its perplexity are measured on."""


def coding_flops(run: StarRun) -> tuple[float, float]:
    """(encode, decode) FLOPs for one image of a run; (0, 0) for a plugin's tokenizer, where they are unknown."""
    if getattr(run.tokenizer, "name", "vq") != "vq":
        return 0.0, 0.0
    return vq_flops(run.tokenizer, run.data.image_size, run.data.channels)


PERCEPTUAL = 1.07e9
"""FLOPs of EfficientNet-Lite2's stages to a sixteenth of the side, for one image of 260 x 260; counted on the modules."""


def _flops(run: StarRun) -> float:
    """Training, without the discriminator, whose cost is small; and the reconstruction of test images."""
    spec = run.tokenizer
    images = 0 if spec.weights else spec.steps * spec.batch_size
    found = sum(coding_flops(run)) * (3 * images + min(run.data.test_images, REPORTED))
    if (
        spec.perceptual_weight and getattr(spec, "name", "vq") == "vq"
    ):  # the wanted images forward; the made ones forward, and backward to the pixels
        found += 3 * images * PERCEPTUAL * (spec.perceptual_size / 260) ** 2
    return found


def vq_flops(spec: TokenizerSpec, image_size: int, image_channels: int) -> tuple[float, float]:
    """(encode, decode) FLOPs of the VQ model for one image: convolutions, attention and codebook search."""
    widths = [spec.channels * mult for mult in spec.channel_mult]
    sides = [image_size >> level for level in range(len(widths))]
    top, side = widths[-1], sides[-1]

    encode = _conv(image_channels, spec.channels, image_size) + _middle(top, side) + _conv(top, spec.z_channels, side)
    encode += 2.0 * side**2 * (spec.z_channels * spec.codebook_dim + spec.codebook_dim * spec.codebook_size)
    for level, (inputs, outputs) in enumerate(pairwise([spec.channels, *widths])):
        encode += _level(inputs, outputs, sides[level], spec.res_blocks, level == len(widths) - 1)
        encode += _conv(outputs, outputs, sides[level + 1]) if level < len(widths) - 1 else 0

    widths = [(spec.decoder_channels or spec.channels) * mult for mult in spec.channel_mult]
    top = widths[-1]
    decode = 2.0 * side**2 * spec.z_channels * spec.codebook_dim + _conv(spec.z_channels, top, side)
    decode += _middle(top, side) + _conv(widths[0], image_channels, image_size)
    for level, (inputs, outputs) in enumerate(pairwise([top, *reversed(widths)])):
        at = sides[-1 - level]
        decode += _level(inputs, outputs, at, spec.res_blocks + 1, level == 0)
        decode += _conv(outputs, outputs, 2 * at) if level < len(widths) - 1 else 0
    return encode, decode


def _middle(channels: int, side: int) -> float:
    return 4 * _conv(channels, channels, side) + _attention(channels, side)


def _conv(inputs: int, outputs: int, side: int, kernel: int = 3) -> float:
    return 2.0 * inputs * outputs * kernel**2 * side**2


def _attention(channels: int, side: int) -> float:
    return 4 * _conv(channels, channels, side, kernel=1) + 4.0 * channels * side**4


def _level(inputs: int, outputs: int, side: int, blocks: int, attention: bool) -> float:
    first = (
        _conv(inputs, outputs, side)
        + _conv(outputs, outputs, side)
        + (_conv(inputs, outputs, side, kernel=1) if inputs != outputs else 0)
    )
    rest = (blocks - 1) * 2 * _conv(outputs, outputs, side)
    return first + rest + (blocks * _attention(outputs, side) if attention else 0)


_RECORDED = (
    *("loss", "reconstruction_loss", "codebook_loss", "perceptual_loss", "adversarial_loss", "discriminator_loss"),
    *("usage", "perplexity"),
)


def _unchanged(run: StarRun) -> int:
    """2: crops are torchvision's ten. 3: what is reported is of test images of all classes."""
    if not is_shuffled(run.data) and run.data.test_images > REPORTED:
        return 0
    return 2 if run.data.first_view_order or run.tokenizer.weights is not None else 1


TOKENIZER = Stage(
    "tokenizer",
    3,
    ("tokenizer",),
    ("dataset",),
    config={"tokenizer": "star.pipeline.config.tokenizer:TokenizerSpec"},
    check="star.pipeline.config.tokenizer:check",
    run="star.stages.tokenizer:tokenizer",
    draws="the tokenizer",
    source="tokenizer",
    given=("tokenizer.weights",),
    look="star.data.look:tokenizer_weights",
    results=("mse", "psnr", "codebook_usage", "codebook_perplexity"),
    curves=dict.fromkeys(_RECORDED, "step"),
    charts=_RECORDED,
    weights=("vq",),
    keeps="checkpoints",
    smaller_passes=False,
    flops=_flops,
    unchanged=_unchanged,
)

"""Stage `features`: a frozen encoder's map of every stored view, for loss terms; the section `features` of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from star.pipeline.tokenizer import PERCEPTUAL
from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


class VitSize(NamedTuple):
    """The size of a vision transformer."""

    dim: int
    depth: int
    heads: int


VITS = {"dinov2-s": VitSize(384, 12, 6), "dinov2-b": VitSize(768, 12, 12), "dinov2-l": VitSize(1024, 24, 16)}
"""DINOv2's sizes without register tokens, patches of 14 pixels."""
LITE2_CHANNELS = 120
"""Channels of EfficientNet-Lite2 at a sixteenth of the side."""


def encoder_flops(run: StarRun) -> float:
    """FLOPs of the encoder for one view, whose side is 16 (EfficientNet) or 14 pixels (DINOv2) a code."""
    if run.features.encoder not in VITS:
        return PERCEPTUAL * (16 * run.grid / 260) ** 2
    dim, depth, _ = VITS[run.features.encoder]
    tokens = run.sequence_length + 1
    return depth * (24.0 * dim**2 * tokens + 4.0 * dim * tokens**2) + 2.0 * 3 * 14**2 * dim * run.sequence_length


FEATURES = Stage(
    "features",
    1,
    ("features",),
    ("dataset",),
    config={"features": "star.pipeline.config.features:FeaturesSpec"},
    check="star.pipeline.config.features:check",
    run="star.stages.features:features",
    source="encoder",
    given=("features.weights",),
    look="star.data.look:encoder_weights",
    keeps="shards",
    width="processes",
    flops=lambda run: run.data.stored_views * encoder_flops(run),
    disk=lambda run: 2.0 * run.data.stored_views * run.sequence_length * run.features.channels,
    is_target=False,
)

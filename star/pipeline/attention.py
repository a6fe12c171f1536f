"""Stage `attention`: which positions the trained transformer attends to; the section `attention` of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from star.pipeline.dataset import is_shuffled
from star.pipeline.model import forward_flops
from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


def _flops(run: StarRun) -> float:
    return min(run.attention.images, run.data.test_images) * forward_flops(run, head=False)


SHARES = ("distance", "condition_share", "self_share", "neighbour_share")
"""What is measured of attention, as `star.evaluate.attention` says."""
ATTENTION = Stage(
    "attention",
    2,  # from 2 on, of test images of all classes
    ("attention",),
    ("train", "encode", "tokenizer"),
    config={"attention": "star.pipeline.config.attention:AttentionSpec"},
    run="star.stages.attention:attention",
    results=(*SHARES, *(f"last_layer_{name}" for name in SHARES)),
    curves={f"{name}_by_{step}": step for step in ("layer", "position") for name in SHARES},
    charts=("distance_by_layer", "distance_by_position", "condition_share_by_layer"),
    files=("attention.npz",),
    drawn={"attention": "attention.npz"},
    flops=_flops,
    unchanged=lambda run: is_shuffled(run.data),
)

"""Stage `floor`: what the tokenizer alone costs, as distances of its reconstructions; the section `floor` of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from star.pipeline.dataset import is_shuffled
from star.pipeline.score import extraction_flops
from star.pipeline.tokenizer import coding_flops
from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun

_DISTANCES = ("frechet_distance", "spatial_frechet_distance")


def _flops(run: StarRun) -> float:
    return run.floor_images * (2 * sum(coding_flops(run)) + 3 * extraction_flops(run))


def floored(run: StarRun) -> str:
    """What a floor is, for the notes below a table."""
    return (
        f"Floor: the tokenizer's reconstructions of {run.floor_images} held-out images, scored like samples; what is sampled "
        "through this tokenizer cannot be expected to come nearer. Reconstructions of crops are as far as a model would be that had learnt "
        "its training data, which are crops, to perfection."
    )


FLOOR = Stage(
    "floor",
    3,  # from 3 on, of held-out images of all classes
    ("floor", "score"),
    ("dataset", "tokenizer", "reference"),
    config={"floor": "star.pipeline.config.floor:FloorSpec"},
    run="star.stages.floor:floor",
    results=(*(f"{{extractor}}/{who}{name}" for who in ("", "crops_", "real_") for name in _DISTANCES), "psnr", "ssim"),
    flops=_flops,
    unchanged=lambda run: is_shuffled(run.data) or run.floor_images == run.data.test_images,
    follows=lambda run: run.floor.num_images is None,
    limits={
        f"score/{{extractor}}/{name}": (
            ("floor: reconstructions", f"floor/{{extractor}}/{name}"),
            ("reconstructions of crops", f"floor/{{extractor}}/crops_{name}"),
            ("held-out images", f"floor/{{extractor}}/real_{name}"),
        )
        for name in _DISTANCES
    },
)

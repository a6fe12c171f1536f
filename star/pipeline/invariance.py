"""Stage `invariance`: how many codes change when an image is shifted; the section `invariance` of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from star.pipeline.dataset import is_shuffled
from star.pipeline.tokenizer import coding_flops
from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


def _flops(run: StarRun) -> float:
    views = 1 + 2 * len(run.invariance.shifts)
    return min(run.invariance.images, run.data.test_images) * views * coding_flops(run)[0]


INVARIANCE = Stage(
    "invariance",
    2,  # from 2 on, of test images of all classes
    ("invariance",),
    ("dataset", "tokenizer"),
    config={"invariance": "star.pipeline.config.invariance:InvarianceSpec"},
    check="star.pipeline.config.invariance:check",
    run="star.stages.invariance:invariance",
    results=("change_rate",),
    curves={"change_rate_by_shift": "shift"},
    charts=("change_rate_by_shift",),
    files=("invariance.npz",),
    drawn={"codes": "invariance.npz"},
    flops=_flops,
    unchanged=lambda run: is_shuffled(run.data),
)

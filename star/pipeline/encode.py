"""Stage `encode`: the codes of every view of every image, computed or imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from star.pipeline.tokenizer import coding_flops
from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


def _flops(run: StarRun) -> float:
    images = run.data.test_images + (0 if run.data.codes else run.data.stored_views)
    return images * coding_flops(run)[0]


ENCODE = Stage(
    "encode",
    2,  # from 2 on, views are torchvision's ten, and imported codes are numbered as LlamaGen numbers them
    (),
    ("dataset", "tokenizer"),
    run="star.stages.encode:encode",
    source="codes",
    given=("data.codes",),
    look="star.data.look:codes",
    results=("skipped",),
    keeps="shards",
    width="processes",
    flops=_flops,
    disk=lambda run: 2.0 * run.sequence_length * (run.data.stored_views + run.data.test_images),
    unchanged=lambda run: run.data.first_view_order,
)

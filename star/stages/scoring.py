"""Shared by the stages `reference` and `score`: statistics of many images' features, gathered over ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from star.data.inception_file import kept
from star.data.pixels import Images
from star.evaluate.features import load_extractor
from star.evaluate.statistics import Statistics
from star.stages.context import Context


def gather(ctx: Context, found: Statistics, read: Callable[[slice], Images]) -> None:
    """Gather the statistics of this rank's images, a contiguous share, then combine those of all ranks."""
    spec, size = ctx.spec.score, ctx.spec.resources.eval_batch_size
    assert found.total is not None
    first, last = ((ctx.ranks.rank + i) * found.total // ctx.ranks.world_size for i in (0, 1))
    batches = (read(slice(start, min(start + size, last))) for start in range(first, last, size))
    found.gather(extractor_of(ctx), batches, first, spec.image_size, lambda done: ctx.progress(done, last - first))
    found.merge_ranks(ctx.ranks)


def extractor_of(ctx: Context) -> Any:
    spec = ctx.spec.score
    weights = Path(spec.weights) if spec.weights else kept(ctx.data_home)
    return load_extractor(spec.extractor, spec.input_size, weights, ctx.device)

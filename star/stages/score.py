"""Stage `score`: comparison of generated with reference images."""

from __future__ import annotations

import numpy as np
import torch

from star.evaluate.precision_recall import Manifold
from star.evaluate.reference_file import read_reference
from star.evaluate.statistics import Reference, Statistics, compare
from star.pipeline.score import GENERATED_KEPT
from star.stages.context import Context, Result
from star.stages.scoring import gather


def score(ctx: Context) -> Result:
    """Compare generated with reference images; each metric is named `EXTRACTOR/METRIC`."""
    spec = ctx.spec.score
    known = read_reference(ctx.inputs["reference"] / "reference.npz")
    assert known.pooled is not None
    images = np.load(ctx.inputs["generate"] / "images.npy", mmap_mode="r")
    found = Statistics(len(images), GENERATED_KEPT, spec.is_split_size, ctx.device)
    gather(ctx, found, lambda rows: images[rows])
    with np.load(ctx.inputs["reference"] / "manifold.npz") as file:
        balls = Manifold(*(torch.from_numpy(file[name]).to(ctx.device) for name in ("points", "radii")))
    values = compare(Reference(known.pooled, known.spatial, balls), found, spec.neighbours)
    return {f"{spec.extractor}/{name}": value for name, value in values.items()}

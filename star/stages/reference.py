"""Stage `reference`: moments and balls of real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from star.data.image_sets import open_images
from star.data.pixels import Images
from star.errors import DataError
from star.evaluate.features import features_of
from star.evaluate.precision_recall import Manifold, manifold
from star.evaluate.reference_file import read_reference, write_reference
from star.evaluate.statistics import Statistics
from star.stages.context import Context, Pixels, Result, some_of
from star.stages.scoring import extractor_of, gather


def reference(ctx: Context) -> Result:
    """Compute moments and balls of real images, once for all runs that are scored against them.

    Writes the moments to reference.npz in ADM's layout, and the balls of precision and recall to manifold.npz.
    """
    spec = ctx.spec.score
    if spec.reference:
        return _given_reference(ctx, Path(spec.reference))
    real = Pixels(ctx, "train")
    rows = np.sort(some_of(ctx.spec, len(real), spec.num_reference))
    found = Statistics(len(rows), spec.manifold_images, spec.is_split_size, ctx.device)

    def read(part: slice) -> Images:
        return real.plain(rows[part])

    gather(ctx, found, read)
    own = features_of(spec.extractor, spec.input_size)
    if ctx.ranks.is_main:
        shown = real.plain(rows[found.kept])
        write_reference(ctx.out / "reference.npz", own, found.pooled.result(), found.spatial.result(), shown)
        _write_manifold(ctx.out, manifold(found.points, spec.neighbours))
    return {}


def _given_reference(ctx: Context, path: Path) -> Result:
    """Use a file in ADM's layout: copy its moments, and compute the balls of its images."""
    spec = ctx.spec.score
    known = read_reference(path)
    own = features_of(spec.extractor, spec.input_size)
    if known.extractor != own:
        raise DataError(
            f"score.reference: {path} was made with {known.extractor}, this run's features are {own}; they must be one."
        )
    if known.pooled is None or known.spatial is None or not known.has_images:
        raise DataError(
            f"score.reference: {path} lacks mu, sigma, mu_s, sigma_s or arr_0; a table needs all five numbers."
        )
    images = open_images(path)
    found = Statistics(len(images), len(images), spec.is_split_size, ctx.device)
    found.gather(
        extractor_of(ctx),
        images.batches(ctx.spec.resources.eval_batch_size),
        side=spec.image_size,
        progress=lambda done: ctx.progress(done, len(images)),
    )
    if ctx.ranks.is_main:
        # the images are not copied: nothing reads the 2 GB
        empty = np.zeros((0, 1, 1, 3), dtype=np.uint8)
        write_reference(ctx.out / "reference.npz", known.extractor, known.pooled, known.spatial, empty)
        _write_manifold(ctx.out, manifold(found.points, spec.neighbours))
    return {}


def _write_manifold(folder: Path, balls: Manifold) -> None:
    np.savez(folder / "manifold.npz", points=balls.points.cpu().numpy(), radii=balls.radii.cpu().numpy())

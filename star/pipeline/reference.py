"""Stage `reference`: feature moments of real images, and their balls for precision and recall.

It is computed once for all runs that are scored against the same images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from star.pipeline.dataset import is_shuffled
from star.pipeline.score import FEATURES, extraction_flops
from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


def _disk(run: StarRun) -> float:
    """Points and pixels of the manifold's images, and the second moments of two layers in float64."""
    pixels, width = run.data.image_size**2 * run.data.channels, FEATURES[run.score.extractor]
    return min(run.score.num_reference, run.score.manifold_images) * (width * 4.0 + pixels) + 2 * width**2 * 8.0


def _unchanged(run: StarRun) -> bool:
    """3: parts of the training images are of all classes."""
    score = run.score
    if score.reference is not None:
        return True
    is_whole = is_shuffled(run.data) or score.num_reference == run.data.train_images
    return is_whole and score.manifold_images >= score.num_reference


REFERENCE = Stage(
    "reference",
    3,
    ("score",),
    ("dataset",),
    run="star.stages.reference:reference",
    source="reference",
    given=("score.reference", "score.weights"),
    look="star.data.look:reference_file",
    width="processes",
    flops=lambda run: run.score.num_reference * extraction_flops(run),
    disk=_disk,
    unchanged=_unchanged,
)

"""Stage `score`: scores generated images against reference images; the section `score` of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun

EFFICIENTNET_LITE0 = 2 * 407e6
"""FLOPs for one image of 224 x 224, as published."""
INCEPTION = 11.4e9
"""FLOPs for one image of any size, which is resized to 299 x 299; counted on the modules."""
GENERATED_KEPT = 50_000
"""Most generated images that precision and recall use: ADM's samples are that many."""
FASHION_SIDE = 28
"""Side in pixels of Fashion-MNIST's images."""
FEATURES = {"efficientnet-lite0": 1280, "inception": 2048}
"""Extractor -> channels of the pooled layer whose moments a distance compares."""


def extraction_flops(run: StarRun) -> float:
    """FLOPs to extract the features of one image."""
    if run.score.extractor == "inception":
        return INCEPTION
    return EFFICIENTNET_LITE0 * (run.score.input_size / 224) ** 2


def compared(run: StarRun) -> str:
    """How the images of a run are scored, as JSON text: number, side that they have then, border, and what they stand against."""
    data, score = run.data, run.score
    # padded images show the same things smaller, and stand in a border
    side = data.image_size if data.enlarge == "pad" else data.pad_to
    is_framed = side is not None and not (data.name == "fashion-mnist" and side <= FASHION_SIDE)
    how = score.identity() | {
        "image_size": score.image_size or run.generate.image_size or data.image_size,
        "data.enlarge": f"pad to {side}" if is_framed else "resize",
        "generate.num_images": run.generate.num_images,  # fewer bias distances upwards
    }
    if score.reference:
        how["reference"] = score.reference
    else:
        how |= {"reference": [data.name, data.path], "reference_size": score.image_size or data.image_size}
    return json.dumps(how, sort_keys=True)


def scored(run: StarRun) -> str:
    """What the scores of a run are computed from, for the notes below a table."""
    score = run.score
    compared = (
        f"the reference file {Path(score.reference).name}"
        if score.reference
        else f"{score.num_reference} training images"
    )
    sets = f"from {run.generate.num_images} samples against {compared}{_bias(run)}"
    if score.extractor == "inception":
        return f"FID, sFID, IS, precision and recall as ADM's evaluator defines them, {sets}."
    return (
        f"FD, sFD, IS, precision and recall are computed on features of {score.extractor} (ImageNet weights, images at "
        f"{score.input_size} x {score.input_size}) {sets}. "
        "They are not the Inception FID, sFID and IS of the published columns: compare orders, not values."
    )


def _bias(run: StarRun) -> str:
    """A note that too few images bias distances upwards, as `evaluate` words it; empty if there are enough."""
    features = FEATURES[run.score.extractor]
    known = {"samples": run.generate.num_images}
    if run.score.reference is None:
        known["reference images"] = min(run.score.num_reference, run.data.train_images)
    few = [f"{count} {name}" for name, count in known.items() if count <= features]
    return f" ({' and '.join(few)} for {features} features: distances are biased upwards)" if few else ""


_SCORES = ("frechet_distance", "spatial_frechet_distance", "inception_score", "precision", "recall")
SCORE = Stage(
    "score",
    3,  # from 3 on, where not all samples serve precision and recall, those that do are of all classes
    ("score",),
    ("generate", "reference"),
    config={"score": "star.pipeline.config.score:ScoreSpec"},
    check="star.pipeline.config.score:check",
    run="star.stages.score:score",
    results=tuple(f"{{extractor}}/{name}" for name in _SCORES),
    highlights={"frechet_distance": "distance"},
    width="processes",
    flops=lambda run: run.generate.num_images * extraction_flops(run),
    unchanged=lambda run: run.generate.samples is None and run.generate.num_images <= GENERATED_KEPT,
)

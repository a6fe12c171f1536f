"""Stage `probe`: linear probes on frozen features; the section `probe` of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from star.pipeline.dataset import NUM_VIEWS
from star.pipeline.model import forward_flops
from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


def probe_passes(run: StarRun) -> int:
    """Training sequences that pass the backbone for the probe: each view once.

    If the features do not fit `resources.feature_cache_gb`, one view of each image passes again in each epoch.
    """
    views = NUM_VIEWS * len(run.data.crop_ranges) if run.probe.views == "stored" else 1
    size = 2 if run.probe.feature_dtype == "fp16" else 4
    features = run.data.train_images * views * run.probe.positions * run.model.dim
    if features * size <= run.resources.feature_cache_gb * 1e9:
        return run.data.train_images * views
    return run.data.train_images * (views + run.probe.epochs)  # the pass over all views is for the batch norm


def _flops(run: StarRun) -> float:
    spec = run.probe
    passes = probe_passes(run) + run.data.test_images
    heads = 6.0 * spec.epochs * run.data.train_images * len(spec.base_lrs) * spec.positions
    return passes * forward_flops(run, run.probe_layer, head=False) + heads * run.model.dim * run.data.num_classes


PROBE = Stage(
    "probe",
    2,
    ("probe", "seed"),
    ("train", "encode"),
    config={"probe": "star.pipeline.config.probe:ProbeSpec"},
    check="star.pipeline.config.probe:check",
    run="star.stages.probe:probe",
    draws="order of the probe's images",
    results=("accuracy", "accuracy_top5"),
    curves=dict.fromkeys(("accuracy_by_position", "accuracy_top5_by_position", "best_lr_by_position"), "position"),
    highlights={"accuracy": "probe"},
    charts=("accuracy_by_position",),
    flops=_flops,
)

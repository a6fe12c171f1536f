"""Estimate what a run costs from its spec alone: time and GPU-hours. Each stage declares its own operations and bytes.

A multiply-add counts as two operations; a backward pass as twice the forward one.
"""

from __future__ import annotations

from star.spec.run_base import Run

FLOPS_PER_SECOND = 2e10
"""Assumed FLOP/s of one CPU core, where neither the ledger nor `resources.gpu` gives a speed."""
STARTUP = 3.0
"""Seconds until a worker has imported torch."""


def gpu_hours(spec: Run, flops: float) -> float:
    """GPU-hours that `flops` operations take on `resources.gpu`, which must be set."""
    speed = spec.resources.flops_per_second
    assert speed is not None, "gpu_hours wants resources.gpu"
    return flops / speed / 3600


def stage_seconds(stage: str, spec: Run, speeds: dict[str, float], flops: float) -> float:
    """Expected seconds of a job with `flops` operations, start-up included.

    The speed is that of `resources.gpu`, else the stage's in `speeds` (FLOP/s, measured on this ledger's jobs), else
    FLOPS_PER_SECOND for each thread.
    """
    resources = spec.resources
    speed = resources.flops_per_second or speeds.get(stage, FLOPS_PER_SECOND * resources.threads_of(stage))
    speed *= resources.processes_of(stage) * resources.nodes_of(stage)
    return STARTUP + flops / speed

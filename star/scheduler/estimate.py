"""What a run costs, from its spec alone: time, and hours of GPUs. Operations and bytes are the stages' own to tell.

A multiply-add counts as two operations; a backward pass as twice the forward one.
"""

from __future__ import annotations

from star.spec.run_base import Run

FLOPS_PER_SECOND = 2e10
"""One CPU core, where neither the ledger nor `resources.gpu` knows better."""
STARTUP = 3.0
"""Seconds until a worker has imported torch."""


def gpu_hours(spec: Run, flops: float) -> float:
    """Of `flops` operations on `resources.gpu`, which must be set."""
    speed = spec.resources.flops_per_second
    assert speed is not None, "gpu_hours wants resources.gpu"
    return flops / speed / 3600


def stage_seconds(stage: str, spec: Run, speeds: dict[str, float], flops: float) -> float:
    """Expected duration of `flops` operations on `resources.gpu`, else at the speed of this ledger's own jobs of the stage,
    else at a CPU core's."""
    resources = spec.resources
    speed = resources.flops_per_second or speeds.get(stage, FLOPS_PER_SECOND * resources.threads_of(stage))
    speed *= resources.processes_of(stage) * resources.nodes_of(stage)
    return STARTUP + flops / speed

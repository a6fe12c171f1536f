"""Whether Slurm's time limits leave a plan's jobs the time that they are expected to need."""

from __future__ import annotations

from star.scheduler.estimate import History, stage_seconds
from star.scheduler.plan import Plan
from star.words import counted, duration


def beyond_limits(plan: Plan, history: History) -> list[str]:
    """Return a sentence for each stage of which a job is expected to need more time than all its attempts on Slurm have.

    Args:
        history: how long jobs took so far, for estimates where the spec names no GPU.
    """
    longest: dict[str, tuple[float, str]] = {}
    for job in plan.to_do:
        resources = job.spec.resources
        needed = stage_seconds(job.stage, job.spec, history, job.flops)
        granted = 60 * resources.minutes_of(job.stage) * (1 + resources.timeouts_of(job.stage))
        if needed > max(granted, longest.get(job.stage, (0.0, ""))[0]):
            times = resources.timeouts_of(job.stage)
            limit = f"{counted(resources.minutes_of(job.stage), 'minute')}" + (
                f", and {times} times more" if times else ""
            )
            longest[job.stage] = (
                needed,
                f"resources.{job.stage}.minutes: {job.stage} of {job.run.name} is expected to take {duration(needed)}, and Slurm gives it "
                f"{limit}; give more minutes, or more processes.",
            )
    return [told for _, told in longest.values()]

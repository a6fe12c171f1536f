"""What is known of the stage of a job that only its folder tells of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from star.ledger.store import Ledger
from star.rundir import JobDir, read_json
from star.spec.builtin import builtin_stages
from star.spec.graph import Stage
from star.spec.own_stages import stage_in


def stage_of(stage: str, folder: JobDir) -> Stage | None:
    """A job's stage: the platform's of that name, or as the job's description declares it; None where nothing is known of it."""
    if stage in builtin_stages():
        return builtin_stages()[stage]
    return stage_in((read_json(folder.job) or {}).get("spec") or {}, stage)


def inputs_of(ledger: Ledger, runs: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Job of a stage of the user's own, or of one that does not read the same in every run -> the jobs that it reads.

    Args:
        runs: stage -> key of each.
    """
    fixed = {name for name, stage in builtin_stages().items() if not stage.only_if}
    own = {key for stages in runs for stage, key in stages.items() if stage not in fixed}
    contents = ledger.jobs.contents_of(own) if own else {}
    return {key: list((content.get("inputs") or {}).values()) for key, content in contents.items()}

"""Find a job's stage and inputs from its folder and the ledger, without its experiment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from star.ledger.store import Ledger
from star.rundir import JobDir, read_json
from star.spec.builtin import builtin_stages
from star.spec.graph import Stage
from star.spec.own_stages import stage_in


def stage_of(stage: str, folder: JobDir) -> Stage | None:
    """Return a job's stage: the built-in one of that name, else the one that its job.json declares, else None."""
    if stage in builtin_stages():
        return builtin_stages()[stage]
    return stage_in((read_json(folder.job) or {}).get("spec") or {}, stage)


def inputs_of(ledger: Ledger, runs: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return job key -> keys of its inputs, for jobs of user-defined stages and of stages whose inputs vary by run.

    Args:
        runs: stage -> job key, for each run.
    """
    fixed = {name for name, stage in builtin_stages().items() if not stage.only_if and "terms" not in stage.optional}
    own = {key for stages in runs for stage, key in stages.items() if stage not in fixed}
    contents = ledger.jobs.contents_of(own) if own else {}
    return {key: list((content.get("inputs") or {}).values()) for key, content in contents.items()}

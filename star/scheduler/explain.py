"""Explain why a job is computed (`why`), and what differs between two runs or jobs (`diff`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from star.errors import SpecError
from star.ledger.states import DONE, ENDED, Job
from star.ledger.store import Ledger
from star.rundir import Home
from star.spec.diff import Difference, differences

CANDIDATES = 20
"""Number of most similar jobs that are compared in full; a count of differing inputs and own fields selects them."""


@dataclass
class Reason:
    """Why a job is not the same as another of its stage."""

    job: Job
    last: str
    """The newest entry of its history, as `STATE: REASON`."""
    nearest: Job | None = None
    """The other job of the same stage that differs least; None where there is none."""
    differences: list[Difference] | None = None
    """What changed from `nearest` to this job; instead of an input's key, what the input itself differs by."""


def why(ledger: Ledger, key: str) -> Reason:
    """Find the most similar other job of the same stage, and what differs between the two."""
    job = ledger.jobs.of([key])[key]
    history = ledger.jobs.history(key)
    reason = Reason(job, f"{history[-1].after}: {history[-1].reason}" if history else job.state)
    contents = {other: content for other, content in ledger.jobs.contents(job.stage).items() if content}
    own = contents.pop(key, None)
    if own is None:
        return reason
    older = ledger.jobs.of(contents)
    shallow = sorted((_distance(contents[other], own), -older[other].created, other) for other in contents)
    found = []
    for (inputs, _), created, other in shallow[:CANDIDATES]:
        deep = content_differences(ledger, contents[other], own)
        found.append((inputs > 0, len(deep), created, other, deep))
    if found:
        *_, best, reason.differences = min(found, key=lambda one: one[:4])
        reason.nearest = older[best]
    return reason


def _distance(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[int, int]:
    """(inputs that differ, own fields that differ)."""
    inputs = sum(old["inputs"].get(name) != key for name, key in new["inputs"].items())
    return inputs, sum(1 for _ in differences({**old, "inputs": None}, {**new, "inputs": None}))


def content_differences(
    ledger: Ledger, old: Mapping[str, Any], new: Mapping[str, Any], stage: str = ""
) -> list[Difference]:
    """Return the differences between what two keys of one stage were made of.

    An input whose key differs is replaced by the differences in what that key was made of, and so on up to the first
    stage, as far as the ledger knows them.
    """
    found: list[Difference] = []
    prefix = f"{stage} " if stage else ""
    for name, key in new["inputs"].items():
        before = old["inputs"].get(name)
        if before != key:
            contents = ledger.jobs.contents_of([before, key])
            if before in contents and key in contents:
                found += content_differences(ledger, contents[before], contents[key], name)
            else:
                found.append(Difference(f"{prefix}inputs.{name}", before, key))
    own = [one for one in differences({**old, "inputs": None}, {**new, "inputs": None})]
    found += [Difference(f"{prefix}{one.path.removeprefix('spec.')}", one.old, one.new) for one in own]
    return list({str(one): one for one in found}.values())


@dataclass
class Comparison:
    """What differs between two runs, or two jobs of one stage."""

    spec: list[Difference]
    results: dict[str, tuple[float | None, float | None]]
    """`STAGE/NAME` of a result -> its values in the first and the second; None where one has no such result."""
    provenance: list[Difference]


def compare(home: Home, ledger: Ledger, first: str, second: str) -> Comparison:
    """Compare two runs, or two jobs of one stage: spec, results, provenance.

    Raises:
        SpecError: one is a run and the other a job, or they are jobs of different stages.
    """
    (kind, one), (other_kind, two) = ledger.resolve(first), ledger.resolve(second)
    if kind != other_kind:
        raise SpecError(f"{first} is a {kind} and {second} a {other_kind}; give two runs, or two jobs of one stage.")
    if kind == "run":
        runs = ledger.runs.of([one, two])
        stages = [runs[one].stages, runs[two].stages]
        spec = list(differences(runs[one].spec, runs[two].spec))
    else:
        jobs = ledger.jobs.of([one, two])
        if jobs[one].stage != jobs[two].stage:
            raise SpecError(
                f"{first} is a job of {jobs[one].stage}, {second} one of {jobs[two].stage}; give two of one stage."
            )
        stages = [{jobs[one].stage: one}, {jobs[two].stage: two}]
        contents = ledger.jobs.contents_of([one, two])
        spec = content_differences(ledger, contents[one], contents[two]) if len(contents) == 2 else []
    results: dict[str, tuple[float | None, float | None]] = {}
    provenance: list[Difference] = []
    for stage in stages[0]:
        left, right = (home.job(stage, keys[stage]).read_result() for keys in stages)
        metrics = [(side or {}).get("metrics", {}) for side in (left, right)]
        for name in dict.fromkeys((*metrics[0], *metrics[1])):
            results[f"{stage}/{name}"] = (metrics[0].get(name), metrics[1].get(name))
        if left and right:
            old, new = (lasting(side["provenance"]) for side in (left, right))
            provenance += [Difference(f"{stage} {one.path}", one.old, one.new) for one in differences(old, new)]
    return Comparison(spec, results, provenance)


def waiting_for(job: Job, inputs: Sequence[Job | None], at_work: bool) -> str:
    """What a queued job waits for.

    Args:
        inputs: the jobs that it reads.
        at_work: whether a scheduler may be alive.
    """
    missing = [one for one in inputs if one is not None and one.state != DONE]
    stuck = [one for one in missing if one.state in ENDED]
    if stuck:
        return f"{stuck[0].stage} {stuck[0].state}: it must be retried first"
    if missing:
        return "waits for " + ", ".join(f"{one.stage} ({one.state})" for one in missing)
    if job.error_class:
        return f"tried again after {job.error_class}"
    return "waits for room" if at_work else "no scheduler is at work"


def made_by(home: Home, jobs: Sequence[tuple[str, str]]) -> list[Difference]:
    """Return how the other `jobs` (stage, key) differ from the first in code, machine and libraries.

    Jobs without a result are skipped.
    """
    found = [home.job(stage, key).read_result() for stage, key in jobs]
    known = [lasting(one["provenance"]) for one in found if one]
    listed = [one for other in known[1:] for one in differences(known[0], other)]
    return list({str(one): one for one in listed}.values())


def lasting(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return a provenance without the fields that differ between any two jobs."""
    return {
        name: value
        for name, value in provenance.items()
        if name not in ("inputs", "source", "seed", "snapshot", "command")
    }

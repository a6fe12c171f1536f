"""How an experiment's claims are judged is chosen before there are results; what was changed later is kept and shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from star.rundir import Home, read_json
from star.scheduler.records import record_path
from star.spec.claims import BestAt, Monotone
from star.spec.experiment import Experiment, ExperimentSpec, measured_rows


def rejudged(home: Home, experiment: Experiment) -> list[str]:
    """Sentences on what was changed of an experiment's claims and intervals after it had results, oldest first."""
    before = read_json(record_path(home, experiment.name, experiment.profile)) or {}
    now = [f"{what}, in the file as it is now" for what in _changes(before, experiment)] if _done(before, home) else []
    return [*(before.get("rejudged") or ()), *now]


def kept_changes(before: dict[str, Any], experiment: Experiment, home: Home) -> list[str]:
    """What an experiment's new record keeps of changes: those of the record `before`, and what differs from it now.

    A change counts from the first run that has reached its targets on.
    """
    done = _done(before, home)
    found = list(before.get("rejudged") or ())
    if done:
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        total = len(before["rows"])
        found += [f"{what}, on {day}, when {done} of {total} runs had results" for what in _changes(before, experiment)]
    return found


def _done(before: dict[str, Any], home: Home) -> int:
    """How many runs of a record have reached all their targets."""
    targets = before.get("targets") or ()
    runs = [row["run"]["stages"] for row in before.get("rows") or ()]
    return sum(
        all(home.job(name, run[name]).read_result() is not None for name in targets if name in run) for run in runs
    )


def _changes(before: dict[str, Any], experiment: Experiment) -> list[str]:
    now = experiment.spec
    try:
        old = ExperimentSpec.model_validate((before.get("layout") or {}).get("spec"))
    except ValidationError:  # a study's, an older one, or one with fields of another version
        return []
    found = []
    auto = bool(before.get("auto")), experiment.seeding == "auto"
    if auto[0] != auto[1]:
        seeds = {False: "a fixed number", True: "added while claims are open"}
        found.append(f"seeds: {seeds[auto[0]]} became {seeds[auto[1]]}")
    elif auto[1] and old.looks != now.looks:
        found.append(f"looks: {old.looks} became {now.looks}")
    if old.interval != now.interval:
        found.append(f"intervals: {old.interval} became {now.interval}")
    named = {part.metric for claim in (*old.claims, *now.claims) for part in claim.that}
    for name in sorted(named & (old.metrics.keys() | now.metrics.keys())):
        if old.metrics.get(name) != now.metrics.get(name) and name in old.metrics:
            found.append(f"metric {name}: {old.metrics[name]} became {now.metrics.get(name, 'nothing')}")
    rows = list(dict.fromkeys(row["row"] for row in before.get("rows") or ()))
    wholes = [c.id for c in now.claims if any(isinstance(p, BestAt | Monotone) and not p.rows for p in c.that)]
    if wholes and rows != measured_rows(experiment):
        found.append(
            f"rows, of which {', '.join(wholes)} speaks: {', '.join(rows)} became {', '.join(measured_rows(experiment))}"
        )
    claims = {claim.id: claim for claim in old.claims}
    for claim in now.claims:
        former = claims.pop(claim.id, None)
        if former is None:
            found.append(f"claim {claim.id}: added")
        elif former.that != claim.that:
            found.append(f"claim {claim.id}: what it says was changed")
        if former is not None and former.interval != claim.interval:
            kinds = [one.interval or "the experiment's interval" for one in (former, claim)]
            found.append(f"claim {claim.id}: {kinds[0]} became {kinds[1]}")
    return [*found, *(f"claim {name}: left out" for name in claims)]

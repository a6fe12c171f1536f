"""What a study is given before it asks: results of earlier experiments, and trials to promote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from star.errors import DataError, SpecError
from star.ledger.states import DONE
from star.search.segments import TrialSegment, TrialSegments
from star.search.study import PROMOTED, RUN, WARM, Study
from star.spec.builtin import given_fields
from star.spec.diff import ABSENT, differences
from star.spec.points import Point, Search
from star.spec.run_base import value_at
from star.spec.run_class import parse_run


def warm_start(study: Study, segments: TrialSegments, say: Callable[[str], None]) -> int:
    """Add the results of earlier runs in the search's space that otherwise equal its base; returns their number.

    A point is added if all seeds of a trial have all numbers that the objectives need.
    """
    search, found = study.search, 0
    known = {trial.user_attrs.get(RUN) for trial in study.trials()}
    waiting = [trial.system_attrs.get("fixed_params") for trial in study.trials()]
    for point in _points(study, segments):
        if point in waiting or any(trial.params == point for trial in study.trials()):
            continue
        experiment = search.experiment([("earlier", search.run(point))], search.spec.seeds, search.targets)
        plan = segments.plan(experiment)
        if plan.runs[0].key in known or any(job.action not in ("reuse", "not needed") for job in plan.jobs.values()):
            continue
        segment = TrialSegment(plan, search.targets)
        try:
            values = [segments.value(segment, measure) for measure in search.measures]
        except DataError:
            continue
        study.add(point, values, **{WARM: [run.key for run in plan.runs], RUN: plan.runs[0].key})
        found += 1
    say(f"warm start: {found} points of earlier experiments")
    return found


def _points(study: Study, segments: TrialSegments) -> list[Point]:
    """Points of the runs in the ledger that lie in the search's space."""
    search = study.search
    base = search.default.model_dump(mode="json", exclude={"resources", "seed"})
    points: list[Point] = []
    training = search.default.training
    stage, until = (training.stage, training.until) if training else (str(search.measures[0].stage), "")
    trained = {key for key, place in segments.ledger.jobs.places().items() if place.state == DONE}
    for row in segments.ledger.runs.of().values():
        if row.stages.get(stage) not in trained or row.seed not in search.spec.seeds:
            continue
        now = {name: value for name, value in row.spec.items() if name not in ("resources", "seed")}
        if _others(base, now, search, later=False) - {until}:
            continue
        run = parse_run(row.spec)  # at their defaults: fields that came after the version that recorded it
        if _others(base, run.model_dump(mode="json", exclude={"resources", "seed"}), search) - {until}:
            continue
        if (
            until and until not in search.spec.space and value_at(run, until) != value_at(search.default, until)
        ):  # a run that was ended early is not complete
            continue
        point = search.point_of(run)
        if search.contains(point) and point not in points:
            points.append(point)
    return points


def _others(base: Mapping[str, Any], now: Mapping[str, Any], search: Search, later: bool = True) -> set[str]:
    """Paths outside of the search's space in which a run's spec differs from the search's base.

    Args:
        later: count fields that the run's spec lacks.
    """
    found = {one.path for one in differences(base, now) if later or one.new is not ABSENT}
    # code of plugins that is another gives other keys
    return {path for path in found - set(given_fields()) - set(search.spec.space) if not path.startswith("plugins.")}


def promote(study: Study, numbers: Sequence[int]) -> None:
    """Mark trials that were ended early to be continued to the end.

    Raises:
        SpecError: there is no such trial, or it was not ended early, or it was continued already.
    """
    trials = study.trials()
    wanted = list(study.optuna.user_attrs.get("promotions", []))
    for number in numbers:
        gone_on = {trial.user_attrs.get(PROMOTED) for trial in trials}
        if number in gone_on:
            raise SpecError(f"--promote {number}: this trial went on to its end already; see the report.")
        ended = [t.number for t in trials if t.state == TrialState.PRUNED and t.number not in gone_on]
        if number not in ended:
            listed = ", ".join(map(str, ended)) or "none"
            raise SpecError(f"--promote {number}: no trial of this number was ended early; those that were: {listed}.")
        if number not in wanted:
            wanted.append(number)
    study.optuna.set_user_attr("promotions", wanted)

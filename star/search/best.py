"""The best trials, and the last phase of a search: they and the default repeated on seeds that did not choose them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from star.ledger.states import Job
from star.scheduler.plan import PlannedJob
from star.search.segments import TrialSegment, TrialSegments
from star.search.study import PROMOTED, Study
from star.spec.points import Point

DEFAULT = 0
"""Number of the trial that has the default values of the search's file."""


class Repeated:
    """Repeats the best trials once all trials have ended."""

    def __init__(self, study: Study, segments: TrialSegments, say: Callable[[str], None]) -> None:
        self.study, self.segments, self.say = study, segments, say
        self.over = study.search.spec.confirm is None
        """Whether nothing is left to repeat."""
        self.failed = False
        self._leg: TrialSegment | None = None

    def __call__(self, states: Mapping[str, Job]) -> list[PlannedJob]:
        """Jobs to start now, often none; `states` are the states of all jobs so far."""
        confirm, search = self.study.search.spec.confirm, self.study.search
        if self.over or confirm is None:
            return []
        if self._leg is not None:
            self.failed = self._leg.failed(states) is not None
            self.over = self._leg.done(states)
            return []
        chosen = best(self.study, confirm.top)
        if not chosen:
            self.over = True
            return []
        rows = [(f"trial {number}", search.run(point)) for number, point in chosen]
        plan = self.segments.plan(search.experiment(rows, confirm.seeds, search.targets))
        if plan.to_do:
            self.say(f"repeating {', '.join(label for label, _ in rows)} on seeds {', '.join(map(str, confirm.seeds))}")
        self._leg = self.segments.begin(plan)
        return self._leg.plan.to_do


def best(study: Study, top: int) -> list[tuple[int, Point]]:
    """Number and point of the default and the `top` best trials: by the objective, or from the Pareto front."""
    complete = study.complete()
    if not complete:
        return []
    objectives = study.search.spec.objectives
    if len(objectives) > 1:
        front = {trial.number for trial in study.optuna.best_trials}
        complete = [trial for trial in complete if trial.number in front]
    sign = -1.0 if objectives[0].direction == "maximize" else 1.0
    order = sorted(complete, key=lambda trial: (sign * trial.values[0], trial.number))
    whole = [trial for trial in study.complete() if number_of(trial) == DEFAULT]
    default = whole[-1:] or [trial for trial in study.trials()[:1] if trial.state == TrialState.PRUNED]
    chosen = [*default, *[trial for trial in order if number_of(trial) != DEFAULT][:top]]
    return [(number_of(trial), dict(trial.params)) for trial in chosen]


def number_of(trial: FrozenTrial) -> int:
    """A trial's number, by which its runs are named; for a promoted trial the number of the trial that it continues."""
    return int(trial.user_attrs.get(PROMOTED, trial.number))


def told(point: Point) -> str:
    """A point as text for people, with short parameter names and values."""
    return ", ".join(f"{name.rsplit('.', 1)[-1]} {short(value)}" for name, value in point.items())


def short(value: Any) -> str:
    """A parameter's value as text for people; floats have four significant digits."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""The search's part in the scheduler's loop: it looks at what has ended, tells Optuna, and asks for the next trial."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.trial import TrialState

from star.errors import DataError, SpecError
from star.ledger.states import Job
from star.scheduler.plan import PlannedJob, PlannedRun
from star.search.best import DEFAULT, Repeated, told
from star.search.segments import TrialSegment, TrialSegments, is_training
from star.search.study import EARLY_HOURS, HOURS, IMPOSSIBLE, PROMOTED, RUN, SAME_AS, WHY, Study, counts
from star.spec.points import Point
from star.spec.run_base import Run

IN_A_ROW = 50
"""Points without a new run that the sampler may name one after the other; then there are no more."""

ALL_FAIL = 4
"""Trials that fail before one is complete: then it is not their values."""


@dataclass
class Active:
    """A trial under way."""

    trial: optuna.Trial | None
    """None for one that was ended early and is promoted: it is not asked about again."""
    number: int
    point: Point
    spec: Run
    rungs: list[int]
    """Steps at which it is still to be compared."""
    segment: TrialSegment | None = None
    until: int | None = None
    trained: dict[int, list[str]] = field(default_factory=dict)
    """Seed -> keys of its trainings so far."""
    reached: int = 0
    """The step at which the last of them ended."""
    hours: float = 0.0
    early_hours: float = 0.0
    """Of those, what was measured before the end."""


class Trials:
    """Feeds the scheduler with trials until there are `total`, at most `parallel` at a time.

    Args:
        budget: hours of GPUs (or CPU slots) for the whole search; what is under way and the repetition at the end is set aside.
        say: receives one line for each thing that happens.
    """

    def __init__(
        self,
        study: Study,
        segments: TrialSegments,
        say: Callable[[str], None],
        parallel: int,
        total: float,
        budget: float | None = None,
    ) -> None:
        self.study, self.search, self.segments, self.say = study, study.search, segments, say
        self.parallel, self.total, self.budget = parallel, total, budget
        self.active: dict[int, Active] = {}
        self.repeated = Repeated(study, segments, say)
        self.stopped = ""
        """Why no more trials are asked for, before their number is reached."""
        self._runs = {trial.user_attrs[RUN]: trial.number for trial in study.trials() if RUN in trial.user_attrs}
        self._in_a_row = 0
        self.to_mend = False
        """Something that all trials need has failed."""
        default = self.search.experiment(
            [("default", self.search.default)], self.search.spec.seeds, self.search.targets
        )
        self._default = segments.plan(default)
        segments.share(self._default)
        self._begun: float = study.optuna.user_attrs.get("begun") or time.time()
        study.optuna.set_user_attr("begun", self._begun)

    def resume(self) -> list[PlannedJob]:
        """The trials that were under way when the last search ended, and those that somebody wants promoted."""
        jobs: list[PlannedJob] = []
        trials = self.study.trials()
        for frozen in trials:
            if frozen.state == TrialState.RUNNING:
                trial, point = self.study.again(frozen)
                jobs += self._enter(trial, point)
        done = {trial.user_attrs.get(PROMOTED) for trial in trials}
        for number in self.study.optuna.user_attrs.get("promotions", []):
            if number not in done:
                point = dict(trials[number].params)
                active = Active(None, number, point, self.search.run(point), [])
                active.reached = max(trials[number].intermediate_values, default=0)
                self._remember_rungs(active)
                self.active[number] = active
                self.say(f"promoted trial {number}: it goes on from where it was ended")
                jobs += self._go_on(active)
        return jobs

    def __call__(self, states: Mapping[str, Job]) -> Sequence[PlannedJob]:
        jobs: list[PlannedJob] = []
        for active in list(self.active.values()):
            jobs += self._advance(active, states)
        while len(self.active) < self.parallel and self._wants_more():
            jobs += self._enter(*self.study.ask())
        if not self.active and not self._wants_more() and not self.broken:
            jobs += self.repeated(states)
        return jobs

    def is_open(self) -> bool:
        """Whether anything is under way or still to come."""
        return bool(self.active) or self._wants_more() or not (self.repeated.over or self.broken)

    @property
    def broken(self) -> bool:
        """Whether something is to be fixed before there can be more: nothing is repeated yet."""
        return self.to_mend or self.repeated.failed or (bool(self.stopped) and not self.study.complete())

    def _wants_more(self) -> bool:
        if self.stopped or self.study.counted() >= self.total:
            return False
        if self._in_a_row >= IN_A_ROW:
            self.stopped = f"the last {IN_A_ROW} points were no new runs: the space has no more"
        elif self.budget is not None and self._spent() > self.budget:
            self.stopped = f"the budget of {self.budget:g} hours is used up by what ran, runs, and is left to repeat"
        if self.stopped:
            self.say(f"no more trials: {self.stopped}")
        return not self.stopped

    def _spent(self) -> float:
        """Hours that ran since the study began, and those expected: of what is under way, of another trial, of the repetition."""
        trials = [trial for trial in self.study.trials() if HOURS in trial.user_attrs]
        spent = math.fsum(trial.user_attrs[HOURS] for trial in trials)
        whole = [trial.user_attrs[HOURS] for trial in trials if trial.state == TrialState.COMPLETE]
        each: float = max([*whole, self.segments.expected_hours(self._default)])
        under_way = math.fsum(max(each, active.hours) for active in self.active.values())
        confirm = self.search.spec.confirm
        repeated = (confirm.top + 1) * len(confirm.seeds) / len(self.search.spec.seeds) if confirm else 0
        return spent + under_way + each * (1 + repeated)

    def _enter(self, trial: optuna.Trial, point: Point) -> list[PlannedJob]:
        """A trial's first jobs; none where its run is known, or there can be none."""
        number = trial.number
        try:
            spec = self.search.run(point)
        except SpecError as error:
            self._in_a_row += 1
            self.study.tell(number, None, TrialState.FAIL, **{IMPOSSIBLE: True, WHY: str(error)})
            self.say(f"trial {number}: no such run: {error}")
            return []
        plan = self.segments.plan(
            self.search.experiment([(f"trial {number}", spec)], self.search.spec.seeds, self.search.targets)
        )
        run = plan.runs[0].key
        before = self._runs.setdefault(run, number)
        if before != number:
            self._in_a_row += 1
            self._tell_again(number, before)
            return []
        self._in_a_row = 0
        trial.set_user_attr(RUN, run)
        active = Active(trial, number, point, spec, self.search.rungs(spec))
        compared = self.study.trials()[number].intermediate_values
        if not compared and not any(is_training(job) for job in plan.to_do):
            active.rungs = []  # another experiment has trained it: nothing is to be saved
        self.active[number] = active
        self.say(f"trial {number}: {told(point)}")
        return self._go_on(active)

    def _tell_again(self, number: int, before: int) -> None:
        """A point whose run an earlier trial is: it has that one's values, and is not counted."""
        first = self.study.trials()[before]
        if first.state == TrialState.COMPLETE:
            self.study.tell(number, list(first.values), TrialState.COMPLETE, **{SAME_AS: before})
        else:
            self.study.tell(number, None, TrialState.FAIL, **{SAME_AS: before})
        self.say(f"trial {number}: the same run as trial {before}")

    def _go_on(self, active: Active) -> list[PlannedJob]:
        """Its next segment: to the next comparison, or to the end."""
        active.until, label = (active.rungs[0] if active.rungs else None), f"trial {active.number}"
        if active.until is None:
            experiment = self.search.experiment([(label, active.spec)], self.search.spec.seeds, self.search.targets)
        else:
            experiment = self.search.early(label, active.until, self.search.run(active.point, active.until))
        active.segment = self.segments.begin(self.segments.plan(experiment), active.trained, active.reached)
        active.reached = active.until or 0
        for run in active.segment.runs:
            _remember(active, run)
        return active.segment.plan.to_do

    def _remember_rungs(self, active: Active) -> None:
        """Keys of the trainings that a trial, ended early, has had."""
        for step in self.search.rungs(active.spec):
            experiment = self.search.early(f"trial {active.number}", step, self.search.run(active.point, step))
            for run in self.segments.plan(experiment).runs:
                _remember(active, run)

    def _advance(self, active: Active, states: Mapping[str, Job]) -> list[PlannedJob]:
        segment = active.segment
        assert segment is not None
        failed = segment.failed(states)
        if failed is not None:
            self._failed(active, failed)
            return []
        if not segment.done(states):
            return []
        training, measuring = self.segments.hours(segment, self._begun)
        active.hours += training + measuring
        active.early_hours += measuring if active.until else 0.0
        try:
            values = [
                self.segments.value(segment, measure) for measure in self.search.measures[: 1 if active.until else None]
            ]
        except DataError as error:
            values, problem = [math.nan], str(error)
        else:
            problem = "an objective is not a number"
        if not all(math.isfinite(value) for value in values):
            self._end(active, None, TrialState.FAIL, problem)
            return []
        if active.until is None:
            self._end(active, values, TrialState.COMPLETE)
            return []
        return self._compare(active, active.until, values[0])

    def _failed(self, active: Active, job: Job) -> None:
        """A trial's own failure is its end; that of a stage which all share is no trial's, and what all first trials meet is none's."""
        first = (job.error or job.state).splitlines()[0]
        why = f"{job.stage} {job.key} {job.state}: {first}"
        if job.key in self.segments.shared:
            self.to_mend = True
            self.stopped = f"{why}; all trials need it. Fix that, then the same command goes on"
            del self.active[active.number]  # it stays under way in the study
            self.say(f"no more trials: {self.stopped}")
            return
        if active.segment is not None:
            active.hours += math.fsum(self.segments.hours(active.segment, self._begun))
            active.hours += self.segments.failed_hours(active.segment, job)
        self._end(active, None, TrialState.FAIL, why)
        trials = self.study.trials()
        failures = sum(trial.state == TrialState.FAIL and counts(trial) for trial in trials)
        if not self.stopped and failures >= ALL_FAIL and not self.study.complete():
            self.stopped = f"the first {failures} trials failed, and none is complete"
            self.say(f"no more trials: {self.stopped}")

    def _compare(self, active: Active, step: int, value: float) -> list[PlannedJob]:
        """Let the pruner decide whether a trial goes on."""
        trial = active.trial
        assert trial is not None
        noted = self.study.trials()[active.number].user_attrs.get("ended_at")
        if step not in self.study.trials()[active.number].intermediate_values:
            trial.report(value, step)
        # asked also of the default, so that the others are compared with it; but it is what they are measured by, and goes on.
        # A kill between Optuna's note that a step was compared and ours sends the trial on: it costs time and no wrong number
        ends = noted == step or trial.should_prune()
        if ends and active.number != DEFAULT:
            trial.set_user_attr("ended_at", step)
            self._end(active, None, TrialState.PRUNED, f"{value:.4g} at step {step}")
            return []
        active.rungs = [rung for rung in active.rungs if rung > step]
        return self._go_on(active)

    def _end(self, active: Active, values: list[float] | None, state: TrialState, why: str = "") -> None:
        del self.active[active.number]
        hours = {HOURS: round(active.hours, 6), EARLY_HOURS: round(active.early_hours, 6)}
        word = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "ended early", TrialState.FAIL: "FAILED"}[state]
        shown = f"  {', '.join(f'{value:.4g}' for value in values or [])}{why}"
        self.say(f"trial {active.number}: {word}{shown}")
        if active.trial is None:
            if values is not None:
                first = self.study.trials()[active.number]
                notes = {PROMOTED: active.number, RUN: first.user_attrs.get(RUN)}
                self.study.add(active.point, values, **notes, **hours)
            return
        notes = {WHY: why} if why else {}
        self.study.tell(active.number, values, state, **notes, **hours)


def _remember(active: Active, run: PlannedRun) -> None:
    """A trial's training, from which its next may go on."""
    if run.spec.training is not None:
        active.trained.setdefault(run.seed, []).append(run.stages[run.spec.training.stage])

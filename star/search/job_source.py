"""The search's part in the scheduler's loop: it reports ended trials to Optuna and asks for the next ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import optuna
from optuna.trial import TrialState

from star.errors import DataError, SpecError
from star.ledger.states import ENDED, QUEUED, Job
from star.scheduler.plan import PlannedJob, PlannedRun
from star.search.best import DEFAULT, Repeated, told
from star.search.segments import TrialSegment, TrialSegments, is_training, refuse_missing
from star.search.study import EARLY_HOURS, HOURS, IMPOSSIBLE, PROMOTED, RUN, SAME_AS, WHY, Study, counts
from star.spec.experiment import Experiment
from star.spec.points import Point
from star.spec.run_base import Run

IN_A_ROW = 50
"""Points in a row without a new run, after which no more trials are asked for."""

ALL_FAIL = 4
"""Failed trials after which the search stops if none is complete: the cause is then not their values."""


FAILED_JOBS = "failed_jobs"
"""Attribute of a study: number of a failed trial -> key of the job by which it failed."""


@dataclass
class Active:
    """A running trial."""

    trial: optuna.Trial | None
    """None for a trial that was ended early and is promoted, or that failed and is retried: it is not pruned again."""
    number: int
    point: Point
    spec: Run
    rungs: list[int]
    """Steps at which the trial is still to be compared."""
    segment: TrialSegment | None = None
    until: int | None = None
    trained: dict[int, list[str]] = field(default_factory=dict)
    """Seed -> keys of the trial's training jobs so far."""
    reached: int = 0
    """The step at which the last training job ended."""
    hours: float = 0.0
    early_hours: float = 0.0
    """Hours of measurements at comparisons; included in `hours`."""


class Trials:
    """Feeds the scheduler with trials until there are `total`, at most `parallel` at a time.

    Args:
        budget: hours of GPUs (or CPU slots) for the whole search, running trials and the final repetition included.
        say: receives one line for each event.

    Raises:
        DataError: data that every trial needs is missing.
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
        """Why no more trials are asked for before `total` is reached; empty if they are."""
        self._runs = {trial.user_attrs[RUN]: trial.number for trial in study.trials() if RUN in trial.user_attrs}
        self._in_a_row = 0
        self.to_mend = False
        """Whether a job that all trials need has failed."""
        default = self.search.experiment(
            [("default", self.search.default)], self.search.spec.seeds, self.search.targets
        )
        self._default = segments.plan(default)
        refuse_missing(self._default)
        segments.share(self._default, segments.plan(self._others()), self.search.spec.space)
        self._begun: float = study.optuna.user_attrs.get("begun") or time.time()
        study.optuna.set_user_attr("begun", self._begun)

    def _others(self) -> Experiment:
        """The default with each field of the space, one at a time, at its ends or at its choices."""
        point, rows = self.search.point_of(self.search.default), []
        for name, parameter in self.search.spec.space.items():
            for value in parameter.choices or (parameter.low, parameter.high):
                with suppress(SpecError):
                    rows.append((f"{name} {value}", self.search.run({**point, name: value})))
        return self.search.experiment(rows, self.search.spec.seeds, self.search.targets)

    def resume(self) -> list[PlannedJob]:
        """Jobs of the trials that were running when the search was last stopped, of those to be promoted, and of failed ones whose
        jobs were queued again."""
        jobs: list[PlannedJob] = []
        trials = self.study.trials()
        for frozen in trials:
            if frozen.state == TrialState.RUNNING:
                trial, point = self.study.again(frozen)
                jobs += self._enter(trial, point)
        done = {trial.user_attrs.get(PROMOTED) for trial in trials}
        promoted = [one for one in self.study.optuna.user_attrs.get("promotions", []) if one not in done]
        retried = [number for number in self._retried() if number not in done]
        for number in dict.fromkeys([*promoted, *retried]):
            point = dict(trials[number].params)
            active = Active(None, number, point, self.search.run(point), [])
            active.reached = max(trials[number].intermediate_values, default=0)
            self._remember_rungs(active)
            self.active[number] = active
            why = "its failed job was queued again" if number in retried else "it goes on from where it was ended"
            self.say(f"{'' if number in retried else 'promoted '}trial {number}: {why}")
            jobs += self._go_on(active)
            if number in retried:
                jobs += self._queued_comparisons(active)
                assert active.segment is not None  # what it took before it failed is counted already
                active.hours -= math.fsum(self.segments.hours(active.segment, self._begun))
        return jobs

    def _retried(self) -> list[int]:
        """Trials that failed by a job that `star-exp retry` has queued again since."""
        failed: dict[str, str] = self.study.optuna.user_attrs.get(FAILED_JOBS, {})
        states = self.segments.ledger.jobs.of(list(filter(None, failed.values())))
        return [int(number) for number, key in failed.items() if key in states and states[key].state not in ENDED]

    def _queued_comparisons(self, active: Active) -> list[PlannedJob]:
        """Jobs of a trial's comparisons that wait: nothing else would compute them."""
        found: list[PlannedJob] = []
        for step in self.search.rungs(active.spec):
            part = self.search.early(f"trial {active.number}", step, self.search.run(active.point, step))
            jobs = self.segments.plan(part).to_do
            states = self.segments.ledger.jobs.of([job.key for job in jobs])
            found += [job for job in jobs if job.key in states and states[job.key].state == QUEUED]
        return found

    def _note_failed(self, number: int, key: str) -> None:
        """Note by which job a trial failed; none if its numbers are none, which is no fault to mend."""
        self.study.optuna.set_user_attr(
            FAILED_JOBS, {**self.study.optuna.user_attrs.get(FAILED_JOBS, {}), str(number): key}
        )

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
        """Whether trials or repetitions are running or still to come."""
        return bool(self.active) or self._wants_more() or not (self.repeated.over or self.broken)

    @property
    def broken(self) -> bool:
        """Whether something must be fixed before the search can go on; nothing is repeated until then."""
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
        """Hours spent since the study began, and expected for running trials, one more trial, and the repetition."""
        trials = [trial for trial in self.study.trials() if HOURS in trial.user_attrs]
        spent = math.fsum(trial.user_attrs[HOURS] for trial in trials)
        whole = [trial.user_attrs[HOURS] for trial in trials if trial.state == TrialState.COMPLETE]
        each: float = max([*whole, self.segments.expected_hours(self._default)])
        under_way = math.fsum(max(each, active.hours) for active in self.active.values())
        confirm = self.search.spec.confirm
        repeated = (confirm.top + 1) * len(confirm.seeds) / len(self.search.spec.seeds) if confirm else 0
        return spent + under_way + each * (1 + repeated)

    def _enter(self, trial: optuna.Trial, point: Point) -> list[PlannedJob]:
        """Start a trial; returns its first jobs, or none if its run is known or its point gives no legal run."""
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
            active.rungs = []  # already trained by another experiment: ending it early would save nothing
        self.active[number] = active
        self.say(f"trial {number}: {told(point)}")
        return self._go_on(active)

    def _tell_again(self, number: int, before: int) -> None:
        """End a trial that has the run of an earlier trial: it gets that trial's values and is not counted."""
        first = self.study.trials()[before]
        if first.state == TrialState.COMPLETE:
            self.study.tell(number, list(first.values), TrialState.COMPLETE, **{SAME_AS: before})
        else:
            self.study.tell(number, None, TrialState.FAIL, **{SAME_AS: before})
        self.say(f"trial {number}: the same run as trial {before}")

    def _go_on(self, active: Active) -> list[PlannedJob]:
        """Begin a trial's next segment, to the next comparison or to the end; returns its jobs."""
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
        """Note the training jobs that a trial had before it was ended early."""
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
            self._note_failed(active.number, "")
            self._end(active, None, TrialState.FAIL, problem)
            return []
        if active.until is None:
            self._end(active, values, TrialState.COMPLETE)
            return []
        return self._compare(active, active.until, values[0])

    def _failed(self, active: Active, job: Job) -> None:
        """Handle a failed job of a trial.

        If all trials need the job, the search stops and the trial stays open. Otherwise the trial fails; after ALL_FAIL
        failures with no trial complete the search stops too.
        """
        first = (job.error or job.state).splitlines()[0]
        why = f"{job.stage} {job.key} {job.state}: {first}"
        if job.key in self.segments.shared:
            self.to_mend = True
            self.stopped = f"{why}; all trials need it. Fix that, then the same command goes on"
            del self.active[active.number]  # it stays running in the study
            self.say(f"no more trials: {self.stopped}")
            return
        if active.segment is not None:
            active.hours += math.fsum(self.segments.hours(active.segment, self._begun))
            active.hours += self.segments.failed_hours(active.segment, job)
        self._note_failed(active.number, job.key)
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
        # the pruner sees the default too, so that others are compared with it, but never ends it.
        # After a kill between Optuna's note of a comparison and ours, the trial goes on: that costs only time
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
    """Note a run's training job, from which the trial's next one may resume."""
    if run.spec.training is not None:
        active.trained.setdefault(run.seed, []).append(run.stages[run.spec.training.stage])

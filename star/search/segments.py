"""A segment of a trial: its runs up to a step, or to the end, as jobs of the ledger, and their results."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from star.errors import DataError
from star.ledger.states import DONE, ENDED, Job
from star.ledger.store import Ledger
from star.metric_log import read_metrics
from star.rundir import Home
from star.scheduler.estimate import History, stage_seconds
from star.scheduler.plan import Plan, PlannedJob, PlannedRun, make_plan
from star.scheduler.registration import add
from star.spec.experiment import Experiment
from star.spec.graph import needed_of
from star.spec.measure import Measure, curve_value


@dataclass
class TrialSegment:
    """Runs of one trial that have begun, with their target stages."""

    plan: Plan
    targets: tuple[str, ...]

    @property
    def runs(self) -> list[PlannedRun]:
        """The segment's runs, one per seed."""
        return self.plan.runs

    def failed(self, states: Mapping[str, Job]) -> Job | None:
        """The first job that ended without a result (failed, cancelled, lost); None if there is none."""
        jobs = (states.get(job.key) for job in self.plan.to_do)
        return next((job for job in jobs if job is not None and job.state in ENDED), None)

    def done(self, states: Mapping[str, Job]) -> bool:
        """Whether all target stages of all runs are done."""
        open_ = {job.key for job in self.plan.to_do}
        wanted = (run.stages[target] for run in self.runs for target in self.targets)
        return all(key not in open_ or (key in states and states[key].state == DONE) for key in wanted)


class TrialSegments:
    """Makes segments: plans them, registers them in the ledger, and computes their cost."""

    def __init__(self, home: Home, ledger: Ledger, study: str, deliver: Callable[[Plan], None]) -> None:
        self.home, self.ledger, self.study, self.deliver = home, ledger, study, deliver
        self.shared: set[str] = set()
        """Keys of the default's jobs that no field of the space decides: they belong to no trial alone."""

    def share(self, plan: Plan, others: Plan, fields: Collection[str]) -> None:
        """Note the jobs that trials share: those of the default that no field of the space decides.

        Args:
            others: runs with other values of the fields, of which the default's jobs must be too.
            fields: dotted paths.
        """
        sections = {name.partition(".")[0] for name in fields}
        for run in plan.runs:
            pipeline = run.spec.pipeline
            decided = {name for name, stage in pipeline.items() if sections & {*stage.sections_of(run.spec)}}
            same_seed = [other.stages for other in others.runs if other.seed == run.seed]
            self.shared |= {
                key
                for stage, key in run.stages.items()
                if not decided & {*needed_of([stage], pipeline, run.spec)}
                and all(stages.get(stage) == key for stages in same_seed)
            }

    def plan(self, experiment: Experiment) -> Plan:
        """Plan the jobs that an experiment needs and the home does not hold yet."""
        return make_plan(experiment, self.home, self.ledger)

    def begin(
        self, plan: Plan, resume_from: Mapping[int, Sequence[str]] | None = None, reached: int = 0
    ) -> TrialSegment:
        """Register a plan's jobs in the ledger, so that the scheduler may start them.

        Args:
            resume_from: seed -> keys of earlier training jobs, from which training may resume.
            reached: the step at which the last of these ended; steps before it do not count as work.

        Raises:
            DataError: data that the jobs need is missing.
        """
        refuse_missing(plan)
        for job in plan.jobs.values():
            if is_training(job) and resume_from:
                job.resume_from = tuple(resume_from.get(job.spec.seed, ()))
                assert job.spec.training is not None
                job.flops *= 1 - reached / job.spec.training.last
        add(plan, self.home, self.ledger, self.study)
        self.deliver(plan)
        return TrialSegment(plan, plan.experiment.targets)

    def value(self, segment: TrialSegment, measure: Measure) -> float:
        """The mean over seeds of a number that all runs of a segment have; NaN if one of them is NaN.

        Raises:
            DataError: a run lacks the number.
        """
        return fmean(value_of(self.home, run, measure) for run in segment.runs)

    def hours(self, segment: TrialSegment, since: float = 0.0) -> tuple[float, float]:
        """Device hours of a segment's own jobs that ended at time `since` or later: of training, of all else."""
        spent = [0.0, 0.0]
        pipeline = segment.runs[0].spec.pipeline
        wanted, training = needed_of(segment.targets, pipeline), segment.runs[0].spec.training
        keys = {(stage, key) for run in segment.runs for stage, key in run.stages.items() if stage in wanted}
        for stage, key in keys:
            if key in self.shared:
                continue
            result = self.home.job(stage, key).read_result()
            if result and result["finished"] >= since:
                spent[training is None or stage != training.stage] += device_hours(result)
        return spent[0], spent[1]

    def failed_hours(self, segment: TrialSegment, job: Job) -> float:
        """Device hours of a job's last attempt, which left no result."""
        planned = segment.plan.jobs[job.key]
        return max(0.0, (job.finished or 0.0) - (job.started or job.finished or 0.0)) * _width(planned) / 3600

    def expected_hours(self, plan: Plan) -> float:
        """Expected device hours of a plan's own jobs, done or not, by what jobs in the ledger took."""
        history = History(self.ledger.jobs.taken())
        own = [job for job in plan.jobs.values() if job.key not in self.shared]
        seconds = [stage_seconds(job.stage, job.spec, history, job.flops) * _width(job) for job in own]
        return math.fsum(seconds) / 3600


def refuse_missing(plan: Plan) -> None:
    """Check that the data that a plan's jobs need is there.

    Raises:
        DataError: it is not.
    """
    if plan.missing and plan.to_do:
        raise DataError(" ".join(plan.missing))


def is_training(job: PlannedJob) -> bool:
    """Whether a job is the part of its run that may be ended early."""
    return job.spec.training is not None and job.stage == job.spec.training.stage


def _width(job: PlannedJob) -> int:
    """Number of GPUs, or else of CPU slots, that a job takes."""
    resources = job.spec.resources
    return resources.processes_of(job.stage) if resources.uses_gpu(job.stage) else job.slots


def value_of(home: Home, run: PlannedRun, measure: Measure) -> float:
    """A number of a finished run, read from its job's folder.

    Raises:
        DataError: the job has no such number.
    """
    stage = str(measure.stage)
    folder = home.job(stage, run.stages[stage])
    name = run.spec.metric(measure.name).removeprefix(f"{stage}/")
    if measure.at is None:
        found = (folder.read_result() or {"metrics": {}})["metrics"].get(name)
    else:
        found = curve_value(_curve(folder.metrics, name), measure.at)
    if found is None:
        raise DataError(f"{stage} {run.stages[stage]} ({run.name}) has no {name}.")
    return float(found)


def device_hours(result: Mapping[str, Any]) -> float:
    """Device hours of a job's result: GPU hours if it had GPUs, else CPU-slot hours."""
    origin = result.get("provenance") or {}
    wide = int(origin.get("processes") or 1)
    threads = 1 if origin.get("gpus") else int(origin.get("threads") or 1)
    return float(result["seconds"]) * wide * threads / 3600


def _curve(path: Path, name: str) -> dict[int, float]:
    lines = (line for _, line in read_metrics(path))
    return {line["step"]: line["metrics"][name] for line in lines if name in line["metrics"]}

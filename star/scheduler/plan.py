"""Plan an experiment: its runs, the jobs they need, which of those are done, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star.ledger.states import FAILED, RUNNING, Job
from star.ledger.store import Ledger
from star.rundir import Home
from star.scheduler.estimate import History, gpu_hours, stage_seconds, wall_time
from star.scheduler.inputs import ExternalInputs
from star.scheduler.records import recorded_rows
from star.spec.experiment import Experiment
from star.spec.keys import Keys, run_key, stage_content
from star.spec.run_base import Run

TO_DO = ("run", "resume", "running")


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run: a row of the experiment with one seed."""

    label: str
    seed: int
    spec: Run
    key: str
    stages: dict[str, str]
    """Stage -> key of its job, for every stage that the run has."""
    sources: Mapping[str, str]
    """Source -> fingerprint of the external files that the run reads."""
    experiment: str = ""
    """The experiment's name."""

    @property
    def name(self) -> str:
        """The row's label and the seed, for messages."""
        return f"{self.label} · seed {self.seed}"

    def content(self, stage: str) -> dict[str, Any]:
        """Return what the key of a stage is made of."""
        found = self.spec.pipeline[stage]
        inputs = {before: self.stages[before] for before in found.inputs_of(self.spec) if before in self.stages}
        return stage_content(found, self.spec, self.sources, inputs)


@dataclass(slots=True)
class PlannedJob:
    """One stage of one or more runs: a job that they share."""

    key: str
    stage: str
    run: PlannedRun
    """The first run that needs the job; the others agree in everything that the job reads."""
    inputs: dict[str, str]
    runs: list[str] = field(default_factory=list)
    """Names of the runs that use it."""
    action: str = "run"
    """`reuse`, `run`, `resume`, `running`, or `not needed` (a later stage is done)."""
    reason: str = "new"
    flops: float = 0.0
    """Floating-point operations of the whole job."""
    resume_from: tuple[str, ...] = ()
    """Keys of jobs that trained the same run up to an earlier step; the job goes on from those that are done."""

    @property
    def spec(self) -> Run:
        """The spec of the first run that needs the job."""
        return self.run.spec

    @property
    def slots(self) -> int:
        """CPU slots that the job takes."""
        return self.spec.resources.slots_of(self.stage)

    @property
    def label(self) -> str:
        """The first run that needs this job, and how many more do, for messages."""
        return self.runs[0] + (f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else "")


@dataclass
class Plan:
    """An experiment's runs, and the jobs that they need."""

    experiment: Experiment
    runs: list[PlannedRun]
    jobs: dict[str, PlannedJob]
    """Key -> job, each after its inputs."""
    missing: list[str]
    """Messages about external inputs that are missing, or do not fit."""
    found: list[str] = field(default_factory=list)
    """Messages about what was found in external inputs."""
    assumed: list[str] = field(default_factory=list)
    """Messages about external inputs that are not here and count as what they were in the experiment's last run."""
    inputs: list[Path] = field(default_factory=list)
    """The manifest files that describe the external inputs."""

    @property
    def to_do(self) -> list[PlannedJob]:
        """Jobs that are neither done nor skipped."""
        return [job for job in self.jobs.values() if job.action in TO_DO]

    def seconds(self, history: History, slots: int) -> float:
        """Expected wall time in seconds of the jobs to do, on so many CPU slots."""
        jobs = self.to_do
        places = {job.key: place for place, job in enumerate(jobs)}
        return wall_time(
            [stage_seconds(job.stage, job.spec, history, job.flops) for job in jobs],
            [job.slots for job in jobs],
            [[places[key] for key in job.inputs.values() if key in places] for job in jobs],
            slots,
        )

    def flops(self) -> float:
        """Floating-point operations still to do."""
        return sum(job.flops for job in self.to_do)

    def gpu_hours(self) -> float | None:
        """GPU-hours still to do, on each run's `resources.gpu`; None where a run names none."""
        if any(run.spec.resources.gpu is None for run in self.runs):
            return None
        return sum(gpu_hours(job.spec, job.flops) for job in self.to_do)

    def checkpoints(self) -> float:
        """Bytes of checkpoints, if all jobs that are to do ran at once."""
        return sum(job.spec.pipeline[job.stage].working_disk_of(job.spec) for job in self.to_do)

    def disk(self) -> float:
        """Bytes of output still to write."""
        return sum(job.spec.pipeline[job.stage].disk_of(job.spec) for job in self.to_do)


def make_plan(experiment: Experiment, home: Home, ledger: Ledger | None) -> Plan:
    """Plan what `experiment` needs: its runs and jobs, and for each job whether this home holds it already.

    Raises:
        DataError: an external input is not what the spec says.
    """
    runs: list[PlannedRun] = []
    jobs: dict[str, PlannedJob] = {}
    manifests: dict[Path, None] = {}
    keys, stages = Keys(), experiment.needed
    external = ExternalInputs(
        home,
        stages,
        [(v.label, v.runs[0]) for v in experiment.variants if v.runs],
        lambda: recorded_rows(home, experiment.name, experiment.profile),
    )
    for variant in (variant for variant in experiment.variants if variant.runs):
        sources, sized = external.of(variant.runs[0], variant.location)
        manifests.update(dict.fromkeys(external.inputs(sized)))
        for one in variant.runs:  # they differ in their seeds alone
            spec = one if sized is variant.runs[0] else sized.model_copy(update={"seed": one.seed})
            known = keys.of(spec, sources)
            run = PlannedRun(variant.label, spec.seed, spec, run_key(spec, known), known, sources, experiment.name)
            runs.append(run)
            for stage in (stage for stage in stages if stage in known):
                job = jobs.get(known[stage])
                if job is None:
                    befores = spec.pipeline[stage].inputs_of(spec)
                    inputs = {before: known[before] for before in befores if before in known}
                    job = jobs[known[stage]] = PlannedJob(known[stage], stage, run, inputs)
                job.runs.append(run.name)
    plan = Plan(experiment, runs, jobs, external.missing, external.notes, external.assumed, list(manifests))
    _decide_all(plan, home, ledger)
    return plan


def _decide_all(plan: Plan, home: Home, ledger: Ledger | None) -> None:
    jobs, folders = plan.jobs, home.job_folders()
    known = ledger.jobs.of(jobs) if ledger else {}
    wanted = {run.stages[target] for run in plan.runs for target in plan.experiment.targets if target in run.stages}
    inputs: set[str] = set()
    costs: dict[tuple[object, ...], float] = {}
    for job in reversed(jobs.values()):  # later stages first: what they do not need is not computed
        _decide(job, home, folders, known.get(job.key), job.key in wanted, job.key in inputs)
        if job.action in TO_DO:
            wanted.update(job.inputs.values())
            inputs.update(job.inputs.values())
    for job in jobs.values():  # seeds share their sections, and so their costs
        place = (job.stage, *_sections(job.spec))
        if place not in costs:
            costs[place] = job.spec.pipeline[job.stage].flops_of(job.spec)
        job.flops = costs[place]


def _sections(spec: Run) -> tuple[int, ...]:
    return tuple(id(value) for name, value in spec if name != "seed")


def _decide(job: PlannedJob, home: Home, folders: set[str], known: Job | None, wanted: bool, is_input: bool) -> None:
    there = f"{job.stage}-{job.key}" in folders
    folder = home.job(job.stage, job.key)
    has_result = there and folder.read_result() is not None
    if has_result and (not is_input or folder.has_output()):
        job.action, job.reason = "reuse", "done"
        if wanted and not is_input and folder.was_deleted():
            job.reason = f"done; its output was deleted, `star-exp rerun {job.key[:8]}` makes it again"
    elif not wanted:
        job.action, job.reason = "not needed", "what needs it is done"
    elif known and known.state == RUNNING:
        job.action, job.reason = "running", f"attempt {known.attempt} on {known.location}"
    elif there and not has_result and folder.result.exists():
        job.reason = "its result.json is damaged"
    elif has_result:
        lost = folder.lost_files() if folder.was_deleted() and folder.out.exists() else []
        what = f"{', '.join(lost[:3])} of its output has gone" if lost else "its output was removed"
        job.reason = f"{what}, and is needed again"
    elif there and folder.checkpoints.exists() and any(folder.checkpoints.iterdir()):
        newest = max((path.stem for path in folder.checkpoints.glob("step-*.pt")), default=None)
        job.action, job.reason = "resume", f"from checkpoint {newest}" if newest else "from what it has done"
    elif known and known.state == FAILED:
        job.reason = f"failed before: {known.error_class}"
    elif known and known.attempt:
        job.reason = f"{known.state} before, no checkpoint"
    else:
        job.reason = "new"

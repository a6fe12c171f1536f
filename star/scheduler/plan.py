"""The plan: which runs an experiment has, which jobs they need, which of those are done, and why the rest is not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from star.data import inception_file, llamagen_codes, sources
from star.data.image_sets import absent_members
from star.errors import DataError
from star.ledger.store import FAILED, RUNNING, Job, Ledger
from star.rundir import Home
from star.scheduler.estimate import checkpoint_bytes, stage_bytes, stage_flops, stage_seconds
from star.spec.experiment import Experiment
from star.spec.graph import STAGES, needed
from star.spec.keys import run_key, stage_keys
from star.spec.run import RunSpec
from star.spec.sections import ScoreSpec


@dataclass(frozen=True)
class PlannedRun:
    """One row with one seed."""

    label: str
    seed: int
    spec: RunSpec
    key: str
    stages: dict[str, str]
    """Stage -> key, for every stage of the graph."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.label} · seed {self.seed}"


@dataclass
class PlannedJob:
    """One stage of one or more runs."""

    key: str
    stage: str
    spec: RunSpec
    """Of the first run that needs it; the others agree in all that it reads."""
    inputs: dict[str, str]
    runs: list[str] = field(default_factory=list)
    """Names of the runs that use it."""
    action: str = "run"
    """`reuse`, `run`, `resume`, `running`, or `not needed` (a later stage is done)."""
    reason: str = "new"

    @property
    def slots(self) -> int:
        """CPU slots it takes."""
        return self.spec.resources.slots_of(self.stage)

    @property
    def label(self) -> str:
        """For people."""
        return self.runs[0] + (f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else "")


@dataclass
class Plan:
    """An experiment as jobs."""

    experiment: Experiment
    runs: list[PlannedRun]
    jobs: dict[str, PlannedJob]
    """By key, each after its inputs."""
    missing: list[str]
    """What of the outside world is not there."""

    @property
    def to_do(self) -> list[PlannedJob]:
        """Jobs that are neither done nor skipped."""
        return [job for job in self.jobs.values() if job.action in ("run", "resume", "running")]

    def seconds(self, speeds: dict[str, float], slots: int) -> float:
        """Expected wall time: the larger of all work over all slots and the longest chain of jobs."""
        work = 0.0
        chain: dict[str, float] = {}
        for job in self.jobs.values():
            own = stage_seconds(job.stage, job.spec, speeds) if job in self.to_do else 0.0
            work += own * min(job.slots, slots)
            chain[job.key] = own + max((chain[key] for key in job.inputs.values()), default=0.0)
        return max(work / slots, max(chain.values(), default=0.0))

    def flops(self) -> float:
        """Operations still to do."""
        return sum(stage_flops(job.stage, job.spec) for job in self.to_do)

    def checkpoints(self) -> float:
        """Bytes of checkpoints of all trainings that are to do, if they ran at once."""
        return sum(checkpoint_bytes(job.spec) for job in self.to_do if job.stage == "train")

    def disk(self) -> float:
        """Bytes still to write."""
        return sum(stage_bytes(job.stage, job.spec) for job in self.to_do)


def make_plan(experiment: Experiment, home: Home, ledger: Ledger | None) -> Plan:
    """What `experiment` needs that this home does not hold yet."""
    runs: list[PlannedRun] = []
    jobs: dict[str, PlannedJob] = {}
    missing: list[str] = []
    fingerprints: dict[str, str] = {}
    for variant in experiment.variants:
        for spec in variant.runs:
            keys = stage_keys(spec, _sources(spec, needed(experiment.targets), home, fingerprints, missing))
            run = PlannedRun(variant.label, spec.seed, spec, run_key(keys), keys)
            runs.append(run)
            for stage in needed(experiment.targets):
                inputs = {before: keys[before] for before in STAGES[stage].inputs}
                job = jobs.setdefault(keys[stage], PlannedJob(keys[stage], stage, spec, inputs))
                job.runs.append(run.name)
    known = ledger.jobs(jobs) if ledger else {}
    wanted = {run.stages[target] for run in runs for target in experiment.targets}
    for job in reversed(jobs.values()):  # later stages first: what they do not need is not computed
        _decide(job, home, known.get(job.key), job.key in wanted)
        if job.action in ("run", "resume", "running"):
            wanted |= set(job.inputs.values())
    return Plan(experiment, runs, jobs, missing)


def _decide(job: PlannedJob, home: Home, known: Job | None, wanted: bool) -> None:
    folder = home.job(job.stage, job.key)
    if folder.result.exists():
        job.action, job.reason = "reuse", "done"
    elif not wanted:
        job.action, job.reason = "not needed", "what needs it is done"
    elif known and known.state == RUNNING:
        job.action, job.reason = "running", f"attempt {known.attempt}"
    elif folder.checkpoints.exists() and any(folder.checkpoints.iterdir()):
        newest = max((path.stem for path in folder.checkpoints.glob("step-*.pt")), default=None)
        job.action, job.reason = "resume", f"from checkpoint {newest}" if newest else "from what it has done"
    elif known and known.state == FAILED:
        job.reason = f"failed before: {known.error_class}"
    elif known and known.attempt:
        job.reason = f"{known.state} before, no checkpoint"
    else:
        job.reason = "new"


def _sources(spec: RunSpec, stages: list[str], home: Home, cache: dict[str, str], missing: list[str]) -> dict[str, str]:
    """Fingerprints of the images and of given files, each computed once per plan; what `stages` miss goes into `missing`."""
    where = spec.data.model_dump_json()
    if where not in cache:
        cache[where] = sources.fingerprint(spec.data, home.data)
        reason = sources.missing(spec.data, home.data)
        if reason and reason not in missing:
            missing.append(reason)
    found = {"data": cache[where]}
    files = (
        ("tokenizer", "tokenizer.weights", spec.tokenizer.weights, "LlamaGen's file"),
        ("model", "model.weights", spec.model.weights, "LlamaGen's file"),
        ("reference", "score.reference", spec.score.reference, "a reference file such as ADM's"),
    )
    for source, path, given, what in files:
        if given:
            if given not in cache:
                cache[given] = _sha256(Path(given)) if Path(given).is_file() else "absent"
                if cache[given] == "absent" and (source != "reference" or "reference" in stages):
                    missing.append(
                        f"{path}: {given} is not there; put {what} there or give its path with --set {path}=PATH."
                    )
            found[source] = cache[given]
    if "reference" in stages:
        _check_score_files(spec.score, home, cache, missing)
    if spec.data.codes:
        if spec.data.codes not in cache:
            cache[spec.data.codes] = llamagen_codes.fingerprint(Path(spec.data.codes))
            missing += [reason for reason in (llamagen_codes.absent(Path(spec.data.codes)),) if reason]
        found["codes"] = cache[spec.data.codes]
    return found


def _check_score_files(score: ScoreSpec, home: Home, cache: dict[str, str], missing: list[str]) -> None:
    """That Inception's weights and the reference file are what they must be, before anything is computed."""
    if score.extractor == "inception":
        weights = Path(score.weights) if score.weights else inception_file.kept(home.data)
        reason = (
            f"score.extractor: Inception's weights are not at {weights}; `star-exp weights fetch inception` gets them."
        )
        if not weights.is_file():
            missing += [reason] if reason not in missing else []
        elif str(weights) not in cache:
            inception_file.check(weights)
            cache[str(weights)] = "checked"
    if score.reference and cache.get(score.reference) != "absent":
        absent = absent_members(Path(score.reference), ("mu", "sigma", "mu_s", "sigma_s", "arr_0"))
        if absent:
            raise DataError(
                f"score.reference: {score.reference} lacks {', '.join(absent)}; give an .npz in the layout of ADM's reference files."
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

"""Where and how wide a run is computed: part of no key, except what a subclass says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    create_model,
    model_serializer,
    model_validator,
)

from star.spec.base import Count, FieldError, Positive, Section, is_new
from star.spec.graph import Stage
from star.spec.renames import BY_STAGE

Device = Literal["auto", "cpu", "cuda"]
GpuName = Literal["A100", "H100", "H200", "B200", "L40S", "RTX-4090"]
PEAK_TFLOPS: dict[str, float] = {"A100": 312, "H100": 989, "H200": 989, "B200": 2250, "L40S": 362, "RTX-4090": 165}
"""Dense bf16 TFLOP/s with float32 accumulation, from the vendor's data sheets."""

SET_ELSEWHERE = {
    **{
        name: f"resources.slurm.{name}; give it there"
        for name in ("partition", "qos", "account", "constraint", "exclude")
    },
    **{
        name: "star itself, which finds its jobs by it"
        for name in ("job-name", "array", "output", "error", "open-mode")
    },
    **{name: "star itself, which queues jobs again" for name in ("requeue", "no-requeue", "dependency", "parsable")},
    **{name: "resources.STAGE.memory_gb; give it there" for name in ("mem", "mem-per-cpu", "mem-per-gpu")},
    **{
        name: "resources.STAGE.processes, one GPU each; give it there"
        for name in ("gpus", "gpus-per-node", "gpus-per-task")
    },
    **{
        name: "resources.STAGE.threads and processes; give it there"
        for name in ("cpus-per-task", "ntasks", "ntasks-per-node")
    },
    "nodes": "resources.STAGE.nodes; give it there",
    "time": "resources.STAGE.minutes; give it there",
    "signal": "resources.slurm.signal_seconds; give it there",
}
"""Option of sbatch -> what else sets it, so that `resources.slurm.options` may not."""


class SlurmSpec(Section):
    """What a job tells Slurm, beside its processes, memory and time."""

    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    exclude: str | None = Field(None, description="nodes to keep away from")
    gpu_type: str | None = Field(None, description="asked for as gpu:TYPE:COUNT")
    setup: list[str] | None = Field(None, description="shell lines before the worker, such as `module load cuda`")
    python: str | None = Field(
        None,
        description="the interpreter on the nodes, such as `/opt/conda/envs/star/bin/python`; null: the one that submits",
    )
    launcher: str | None = Field(
        None,
        description="what stands before the interpreter, such as `apptainer exec --nv star.sif` or `conda run -n star`",
    )
    srun: list[str] | None = Field(
        None,
        description="options of srun, such as `--container-image=star.sqsh` of Pyxis; `[]` of a stage takes them away",
    )
    options: dict[str, str | int | Literal[True]] | None = Field(
        None,
        description="any other option of sbatch, such as {reservation: night, exclusive: true}; a stage's are added to those of all",
    )
    array_parallelism: Count | None = Field(None, description="jobs of one array that may run at once; null: 256")
    timeouts: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="times that a job which ran out of time goes on from what it has kept; null: 20; a stage that keeps nothing fails",
    )
    signal_seconds: Count | None = Field(
        None, description="how long before the time limit the job is asked to stop; null: 90"
    )

    @model_validator(mode="after")
    def _others(self, info: ValidationInfo) -> SlurmSpec:
        for name in self.options or () if is_new(info) else ():
            if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
                raise FieldError(
                    f"options.{name}", "is no name of an option: small letters, without the dashes before it"
                )
            own = SET_ELSEWHERE.get(name.replace("_", "-"))
            if own is not None:
                raise FieldError(f"options.{name}", f"is set by {own}")
        return self

    def over(self, other: SlurmSpec | None) -> SlurmSpec:
        """This spec, with fields that it leaves at null taken from `other`; `options` of both are merged."""
        if other is None:
            return self
        own = {name: value for name, value in self if value is not None}
        if self.options is not None and other.options is not None:
            own["options"] = other.options | self.options
        return other.model_copy(update=own)


class StageResources(Section):
    """What a job of one stage gets."""

    threads: Count = Field(1, description="CPU slots of each process")
    processes: Count = Field(
        1,
        description="processes on each machine, one GPU each (star's stages under torchrun)",
    )
    nodes: Count = Field(1, description="machines, on Slurm and Ray")
    device: Device | None = Field(None, description="null: resources.device")
    gpu_memory_gb: Positive | None = Field(
        None,
        description="GPU memory of each process, in GiB: jobs that say so share a GPU as long as all fit; others have their GPUs alone",
    )
    memory_gb: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="main memory on each machine, in GiB, for Slurm and Ray; null: the cluster's default"
    )
    minutes: Count = Field(60, description="time limit on Slurm")
    slurm: SlurmSpec | None = Field(None, description="over resources.slurm, field by field")


NOTHING = StageResources()


class Resources(Section):
    """Where and how wide: part of no key, except what a subclass says. Each stage has a section of its own name."""

    stages: ClassVar[Mapping[str, Stage]] = {}
    """The stages that have a section."""

    device: Device = "auto"
    slurm: SlurmSpec | None = Field(None, description="for all stages")
    scratch: str | None = Field(
        None,
        description="folder on a disk of the machine's own, such as `$TMPDIR`: what a job reads of other jobs is copied there "
        "first, once per machine; where it has no room, nothing is",
    )
    gpu: GpuName | None = Field(None, description="the GPU that the plan counts hours of; null: this machine's cores")
    utilisation: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="share of that GPU's dense bf16 peak that is expected to be reached"
    )

    @model_validator(mode="before")
    @classmethod
    def _former(cls, values: Any) -> Any:
        """Convert the former layout `threads: {train: 2}` to `train: {threads: 2}`."""
        former = [field for field in BY_STAGE if isinstance(values, dict) and isinstance(values.get(field), dict)]
        if not former:
            return values
        now = {
            name: dict(value) if isinstance(value, dict) else value
            for name, value in values.items()
            if name not in former
        }
        for field in former:
            for stage, value in values[field].items():
                section = now.setdefault(stage, {})
                if isinstance(section, dict) and section.get(field, value) != value:
                    raise FieldError(f"{stage}.{field}", f"is also given as {field}.{stage}, its former name; keep one")
                if isinstance(section, dict):
                    section[field] = value
        return now

    @model_validator(mode="after")
    def _widths(self) -> Resources:
        for name, stage in self.stages.items():
            own = self.of(name)
            if own.processes > 1 and stage.width == "process":
                several = ", ".join(other.name for other in self.stages.values() if other.width != "process")
                raise FieldError(
                    f"{name}.processes",
                    f"a job of {name} is one process; several may share: {several or 'no stage here'}",
                )
            if own.nodes > 1 and stage.width != "machines":
                several = ", ".join(other.name for other in self.stages.values() if other.width == "machines")
                raise FieldError(
                    f"{name}.nodes",
                    f"a job of {name} runs on one machine; several may share: {several or 'no stage here'}",
                )
        return self

    @model_serializer(mode="wrap")
    def _without_stages_at_their_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if getattr(self, name) != NOTHING}

    def of(self, stage: str) -> StageResources:
        """The resources of a job of `stage`; the defaults if `stage` has no section."""
        found: StageResources = getattr(self, stage, NOTHING)
        return found

    def slurm_of(self, stage: str) -> SlurmSpec:
        """The Slurm settings of a job of `stage`: its own, over those of all stages."""
        return (self.of(stage).slurm or SlurmSpec()).over(self.slurm)

    def threads_of(self, stage: str) -> int:
        """CPU threads of each process of `stage`."""
        return self.of(stage).threads

    def processes_of(self, stage: str) -> int:
        """Processes of a job of `stage`, on each machine."""
        return self.of(stage).processes

    def nodes_of(self, stage: str) -> int:
        """Machines of a job of `stage`."""
        return self.of(stage).nodes

    def slots_of(self, stage: str) -> int:
        """CPU slots of a job of `stage`, on each machine."""
        return self.threads_of(stage) * self.processes_of(stage)

    def device_of(self, stage: str) -> str:
        """`auto`, `cpu` or `cuda`: what a job of `stage` computes on."""
        return (self.of(stage).device or self.device) if stage not in self.stages or self.stages[stage].gpu else "cpu"

    def uses_gpu(self, stage: str) -> bool:
        """Whether a job of `stage` computes on a GPU if there is one."""
        return self.device_of(stage) != "cpu"

    def gpus_of(self, stage: str) -> int:
        """GPUs that a job of `stage` asks Slurm or Ray for, on each machine: with `device: cuda`, or `auto` and a named `gpu`."""
        device = self.device_of(stage)
        wanted = device == "cuda" or (device == "auto" and self.gpu is not None)
        return self.processes_of(stage) if wanted else 0

    def gpu_memory_gb_of(self, stage: str) -> float | None:
        """GiB of each GPU that a job of `stage` needs; None: all of it."""
        return self.of(stage).gpu_memory_gb

    def memory_gb_of(self, stage: str) -> float | None:
        """GiB of main memory of a job of `stage`, on each machine; None: the engine's default."""
        return self.of(stage).memory_gb

    def minutes_of(self, stage: str) -> int:
        """Time limit of a job of `stage` on Slurm, in minutes."""
        return self.of(stage).minutes

    def timeouts_of(self, stage: str) -> int:
        """How often Slurm may restart a job that ran out of time: 20 by default, 0 for a stage that keeps nothing."""
        given = self.slurm_of(stage).timeouts
        return (20 if given is None else given) if self.stages[stage].keeps else 0

    @property
    def flops_per_second(self) -> float | None:
        """FLOP/s that one GPU is expected to sustain: `utilisation` times its dense bf16 peak; None without `gpu`."""
        return None if self.gpu is None else self.utilisation * PEAK_TFLOPS[self.gpu] * 1e12


R = TypeVar("R", bound=Resources)


def resources_class(base: type[R], stages: Mapping[str, Stage]) -> type[R]:
    """A subclass of `base` with a section for each of these stages."""
    fields: Any = {name: (StageResources, NOTHING) for name in stages}
    made: type[R] = create_model("ResourceSpec", __base__=base, __doc__=base.__doc__, **fields)
    made.stages = stages
    return made

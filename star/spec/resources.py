"""Where and how wide a run is computed: never part of a key, but for `validate_every`, which makes outputs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from star.spec.base import Count, NonNegative, Positive, Section

StageName = Literal[
    "dataset", "tokenizer", "encode", "train", "reference", "generate", "score", "probe", "attention", "invariance"
]


GpuName = Literal["A100", "H100", "H200", "B200", "L40S", "RTX-4090"]
PEAK_TFLOPS: dict[str, float] = {"A100": 312, "H100": 989, "H200": 989, "B200": 2250, "L40S": 362, "RTX-4090": 165}
"""Dense bf16 TFLOP/s with float32 accumulation, from the vendor's data sheets."""


class SlurmSpec(Section):
    """What a job tells Slurm, beside its processes, memory and time."""

    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    exclude: str | None = Field(None, description="nodes to keep away from")
    gpu_type: str | None = Field(None, description="asked for as gpu:TYPE:COUNT")
    setup: list[str] = Field(
        default_factory=list, description="shell lines before the worker, such as `module load cuda`"
    )
    options: dict[str, str] = Field(
        default_factory=dict, description="any other option of sbatch, such as {reservation: night}"
    )
    array_parallelism: Count = Field(256, description="jobs of one array that may run at once")
    timeouts: Annotated[int, Field(ge=0)] = Field(
        20,
        description="times that a job which ran out of time goes on from what it has kept; a stage that keeps nothing fails at once",
    )
    signal_seconds: Count = Field(90, description="how long before the time limit the job is asked to stop")


class ResourceSpec(Section):
    """Where and how wide: never part of a key, but for `validate_every`."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: dict[StageName, Count] = Field(
        default_factory=dict, description="CPU slots of a stage's jobs; 1 where it is not named"
    )
    processes: dict[Literal["train", "encode", "generate", "reference", "score"], Count] = Field(
        default_factory=dict,
        description="processes of a stage's job under torchrun, one GPU each; 1 where it is not named",
    )
    nodes: dict[Literal["train"], Count] = Field(
        default_factory=dict,
        description="machines of a stage's job, each with `processes` processes, on Slurm and Ray; 1 where it is not named",
    )
    gpu_memory_gb: dict[StageName, Positive] = Field(
        default_factory=dict,
        description="GPU memory of each process of a stage, in GiB: jobs that say so share a GPU as long as all fit; "
        "others have their GPUs alone",
    )
    memory_gb: dict[StageName, Positive] = Field(
        default_factory=dict, description="main memory of a stage's job on each node, in GiB, for Slurm and Ray"
    )
    minutes: dict[StageName, Count] = Field(
        default_factory=dict, description="time limit of a stage's job on Slurm; 60 where it is not named"
    )
    slurm: SlurmSpec = SlurmSpec()
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="training on several processes: a copy of the model in each, or shards of it (FSDP2)"
    )
    compile: bool = Field(False, description="compile the transformer's blocks")
    micro_batch_size: Count | None = Field(
        None,
        description="images per forward pass and process; the loss does not depend on it; halved when memory runs out",
    )
    eval_batch_size: Count = Field(
        50, description="images per pass through tokenizer and extractor; small ones fit a CPU's cache"
    )
    sample_batch_size: Count = Field(250, description="sequences per pass of generate and probe")
    feature_cache_gb: NonNegative = Field(
        8.0,
        description="largest size of the probe's features that is kept; larger ones are computed anew in each epoch",
    )
    checkpoint_every: Count = Field(500, description="optimizer steps between checkpoints")
    keep_checkpoints: Annotated[int, Field(ge=1, le=100)] = 2
    validate_every: Count | None = Field(
        None,
        description="optimizer steps between validation losses while training; the best weights are kept beside the last",
    )
    gpu: GpuName | None = Field(None, description="the GPU that the plan counts hours of; null: this machine's cores")
    utilisation: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="share of that GPU's dense bf16 peak that is expected to be reached"
    )

    def threads_of(self, stage: str) -> int:
        """CPU threads of each process of `stage`."""
        return {str(name): count for name, count in self.threads.items()}.get(stage, 1)

    def processes_of(self, stage: str) -> int:
        """Processes of a job of `stage`."""
        return {str(name): count for name, count in self.processes.items()}.get(stage, 1)

    def nodes_of(self, stage: str) -> int:
        """Machines of a job of `stage`."""
        return {str(name): count for name, count in self.nodes.items()}.get(stage, 1)

    def slots_of(self, stage: str) -> int:
        """CPU slots of a job of `stage`, on each machine."""
        return self.threads_of(stage) * self.processes_of(stage)

    def uses_gpu(self, stage: str) -> bool:
        """Whether a job of `stage` computes on a GPU where there is one."""
        return self.device != "cpu" and stage != "dataset"

    def gpus_of(self, stage: str) -> int:
        """GPUs that a job of `stage` asks Slurm or Ray for, on each machine: with `device: cuda`, or `auto` and a named `gpu`."""
        wanted = self.device == "cuda" or (self.device == "auto" and self.gpu is not None)
        return self.processes_of(stage) if wanted and self.uses_gpu(stage) else 0

    def gpu_memory_gb_of(self, stage: str) -> float | None:
        """GiB of each GPU that a job of `stage` needs; None: all of it."""
        return {str(name): size for name, size in self.gpu_memory_gb.items()}.get(stage)

    def memory_gb_of(self, stage: str) -> float | None:
        """GiB of main memory of a job of `stage`, on each machine; None: the engine's default."""
        return {str(name): size for name, size in self.memory_gb.items()}.get(stage)

    def minutes_of(self, stage: str) -> int:
        """Time limit of a job of `stage`."""
        return {str(name): count for name, count in self.minutes.items()}.get(stage, 60)

    @property
    def flops_per_second(self) -> float | None:
        """What one GPU is expected to sustain; None without `gpu`."""
        return None if self.gpu is None else self.utilisation * PEAK_TFLOPS[self.gpu] * 1e12

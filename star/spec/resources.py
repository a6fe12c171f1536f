"""Where and how wide a run is computed: never part of a key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from star.spec.base import Count, NonNegative, Section

StageName = Literal[
    "dataset", "tokenizer", "encode", "train", "reference", "generate", "score", "probe", "attention", "invariance"
]


GpuName = Literal["A100", "H100", "H200", "B200", "L40S", "RTX-4090"]
PEAK_TFLOPS: dict[str, float] = {"A100": 312, "H100": 989, "H200": 989, "B200": 2250, "L40S": 362, "RTX-4090": 165}
"""Dense bf16 TFLOP/s with float32 accumulation, from the vendor's data sheets."""


class ResourceSpec(Section):
    """Where and how wide: never part of a key."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: dict[StageName, Count] = Field(
        default_factory=dict, description="CPU slots of a stage's jobs; 1 where it is not named"
    )
    processes: dict[Literal["train", "encode", "generate", "reference", "score"], Count] = Field(
        default_factory=dict,
        description="processes of a stage's job under torchrun, one GPU each; 1 where it is not named",
    )
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

    def slots_of(self, stage: str) -> int:
        """CPU slots of a job of `stage`."""
        return self.threads_of(stage) * self.processes_of(stage)

    @property
    def flops_per_second(self) -> float | None:
        """What one GPU is expected to sustain; None without `gpu`."""
        return None if self.gpu is None else self.utilisation * PEAK_TFLOPS[self.gpu] * 1e12

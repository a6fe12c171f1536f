"""Where and how wide a run is computed: never part of a key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from star.spec.base import Count, Positive, Section

StageName = Literal["dataset", "tokenizer", "encode", "train", "reference", "generate", "score", "probe"]


class ResourceSpec(Section):
    """Where and how wide: never part of a key."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: dict[StageName, Count] = Field(
        default_factory=dict, description="CPU slots of a stage's jobs; 1 where it is not named"
    )
    micro_batch_size: Count | None = Field(None, description="images per forward pass; the loss does not depend on it")
    eval_batch_size: Count = Field(
        50, description="images per pass through tokenizer and extractor; small ones fit a CPU's cache"
    )
    sample_batch_size: Count = Field(250, description="sequences per pass of generate and probe")
    checkpoint_every: Count = Field(500, description="optimizer steps between checkpoints")
    keep_checkpoints: Annotated[int, Field(ge=1, le=100)] = 2
    tflops: Positive | None = Field(None, description="sustained TFLOP/s of one job, for the plan's estimate of time")

    def threads_of(self, stage: str) -> int:
        """CPU slots of a job of `stage`."""
        return {str(name): count for name, count in self.threads.items()}.get(stage, 1)

"""The section `resources` of a run: what ST-AR's stages add to the resources that all stages have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from star.spec.base import Count, NonNegative
from star.spec.resources import Resources


class StarResources(Resources):
    """Where and how wide a run of ST-AR is computed: never part of a key, but for `validate_every`."""

    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="training on several processes: a copy of the model in each, or shards of it (FSDP2)"
    )
    compile: bool = Field(False, description="compile the transformer's blocks, and for `generate` the decoder")
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
        description="largest size of the probe's features that is kept; larger ones are computed again in each epoch",
    )
    checkpoint_every: Count = Field(500, description="optimizer steps between checkpoints")
    keep_checkpoints: Annotated[int, Field(ge=1, le=100)] = 2
    validate_every: Count | None = Field(
        None,
        description="optimizer steps between validation losses while training; the best weights are kept beside the last",
    )

"""The section `floor` of a run: how the tokenizer's reconstructions are scored."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from star.spec.base import Section


class FloorSpec(Section):
    """Distances of held-out images, of their reconstructions and of their crops', to read the distances of samples by (LlamaGen's rFID)."""

    num_images: Annotated[int, Field(ge=16)] | None = Field(
        None,
        description="at most so many images of the test split; null: as many as are sampled, so that distances are biased alike",
    )

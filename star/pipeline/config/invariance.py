"""The section `invariance` of a run: how stable codes are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from star.spec.base import Count, FieldError, Section

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


class InvarianceSpec(Section):
    """How many codes change between two views of an image that are slightly shifted (figure 1c)."""

    shifts: list[Count] = Field([1, 2, 4], min_length=1, description="pixels, to the right and down, each by itself")
    images: Count = Field(1000, description="test images")
    shown: Count = Field(4, description="images whose pixels and codes are kept")


def check(run: StarRun) -> None:
    beyond = [shift for shift in run.invariance.shifts if round(shift / run.tokenizer.downsample) >= run.grid]
    if beyond:
        raise FieldError(
            "invariance.shifts",
            f"{beyond[0]} leaves nothing to compare of an image of {run.data.image_size} pixels; give less",
        )

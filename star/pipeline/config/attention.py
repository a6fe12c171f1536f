"""The section `attention` of a run: where the transformer looks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from star.spec.base import Count, Section


class AttentionSpec(Section):
    """Where the trained transformer looks (figures 1a, 2 and 5)."""

    images: Count = Field(256, description="test images whose attention is averaged")
    label: Literal["class", "null"] = Field("class", description="the condition: each image's class, or none")
    positions: Count = Field(8, description="equally spaced positions T/n, ..., T whose maps are kept")
    shown: Count = Field(4, description="images whose maps are kept, one by one")

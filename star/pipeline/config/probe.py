"""The section `probe` of a run: the linear probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from star.spec.base import Count, FieldError, LayerRef, Positive, Section, resolve_layer

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


class ProbeSpec(Section):
    """Linear probe on frozen features under the null label (figures 1b and 4), MAE's protocol."""

    layer: LayerRef = Field("1/2", description="1-based layer, or fraction of the depth")
    positions: Count = Field(8, description="equally spaced positions T/n, ..., T")
    epochs: Count = 90
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    batch_size: Count = 16_384
    base_lrs: list[Positive] = Field(
        [0.01, 0.03, 0.1, 0.3, 1.0],
        min_length=1,
        description="per 256 images; the best on held-out training images is used",
    )
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.1, description="share of the training images that chooses the rate"
    )
    views: Literal["center", "stored"] = Field(
        "center",
        description="training images as centre crops, or in each epoch as one of their stored views, a new draw each time",
    )
    feature_dtype: Literal["fp32", "fp16"] = Field("fp32", description="in which features are kept")


def check(run: StarRun) -> None:
    try:
        resolve_layer(run.probe.layer, run.model.n_layer)
    except ValueError as error:
        raise FieldError("probe.layer", str(error)) from None
    if run.probe.positions > run.sequence_length:
        raise FieldError(
            "probe.positions",
            f"{run.probe.positions} is more than the {run.sequence_length} positions of a {run.grid} x {run.grid} grid",
        )

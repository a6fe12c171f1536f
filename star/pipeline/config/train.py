"""The section `optim` of a run, and checks of the sections of a training together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from star.pipeline.dataset import NUM_VIEWS
from star.spec.base import Count, FieldError, NonNegative, Positive, Section, resolve_layer
from star.spec.renames import in_section, under_new_names

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


class OptimSpec(Section):
    """AdamW and its schedule (section 4.1; the printed beta2 = 0.05 is a slip for 0.95)."""

    steps: Annotated[int, Field(ge=0)] | None = Field(
        None, description="optimizer steps; give this or epochs; 0 only with model.weights"
    )
    epochs: Count | None = Field(None, description="passes over the training images; give this or steps")
    train_images: Count | None = Field(
        None,
        description="train on this many of data.train_images, a part that is drawn once and is within every larger one; the codes, the "
        "probe and the reference images stay those of all; all by default",
    )
    batch_size: Count = Field(256, description="images per step over all devices")
    lr: Positive = Field(1e-4, description="per 256 images: the rate used is lr * batch_size / 256")
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    weight_decay: NonNegative = Field(0.05, description="on tensors of two or more dimensions")
    grad_clip: NonNegative = Field(1.0, description="largest norm of the gradient; 0 is no limit")
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of the autocast region; weights stay in float32")
    stop_at_step: Count | None = Field(
        None,
        description="end after this step of the same schedule, as a search does to compare runs early; a run to the end goes on from there",
    )

    @model_validator(mode="before")
    @classmethod
    def _former(cls, values: Any) -> Any:
        return under_new_names(values, in_section("optim"))

    @model_validator(mode="after")
    def _length(self) -> OptimSpec:
        if self.steps is None and self.epochs is None:
            raise FieldError(
                "",
                "nothing says how long to train; name a preset that does, such as `use: [B, 50ep]`, or give optim.steps or optim.epochs",
            )
        if self.steps is not None and self.epochs is not None:
            raise FieldError(
                "epochs",
                f"steps is {self.steps} and epochs is {self.epochs}, one of them perhaps by a profile or a preset; null takes one away, "
                "such as `steps: null`",
                "steps",
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The fields in the key; those that came later only if set, so runs without them keep their keys."""
        unset = {"train_images"} if self.train_images is None else set()
        values = self.model_dump(mode="json", exclude={"stop_at_step"} | unset)
        return values | ({"until": self.stop_at_step} if self.stop_at_step else {})  # its former name, which keys keep


def check(run: StarRun) -> None:
    try:
        resolve_layer(run.selfguided.contrastive_layer, run.model.n_layer)
    except ValueError as error:
        raise FieldError("selfguided.contrastive_layer", str(error)) from None
    _check_objective(run)
    batch, ranks = run.optim.batch_size, run.resources.processes_of("train") * run.resources.nodes_of("train")
    if run.optim.train_images is not None and run.optim.train_images > run.data.train_images:
        raise FieldError(
            "optim.train_images", f"{run.optim.train_images} is more than data.train_images = {run.data.train_images}"
        )
    if batch > run.images_trained_on:
        whose = "data" if run.optim.train_images is None else "optim"
        raise FieldError("optim.batch_size", f"{batch} is more than {whose}.train_images = {run.images_trained_on}")
    _check_length(run)
    if run.selfguided.contrastive and batch < 2:
        raise FieldError(
            "optim.batch_size", "the contrastive losses take their negatives from other images; give at least 2"
        )
    if batch % ranks:
        raise FieldError(
            "optim.batch_size",
            f"{batch} images cannot be shared evenly by resources.train.processes (times nodes) = {ranks}",
        )


def _check_objective(run: StarRun) -> None:
    selfguided, length, stored = run.selfguided, run.sequence_length, NUM_VIEWS * len(run.data.crop_ranges)
    if selfguided.contrastive and selfguided.num_positions > length:
        raise FieldError(
            "selfguided.num_positions",
            f"{selfguided.num_positions} is more than the {length} positions of a {run.grid} x {run.grid} grid",
        )
    if selfguided.mim_positions == "masked" and selfguided.mim and round(selfguided.mask_ratio * (length - 1)) == 0:
        raise FieldError(
            "selfguided.mask_ratio",
            f"{selfguided.mask_ratio} hides none of {length - 1} positions, but mim_positions is masked",
        )
    if selfguided.num_views > stored:
        raise FieldError(
            "selfguided.num_views",
            f"{selfguided.num_views} is more than the {stored} stored views; give fewer, or data.extra_crop_range",
        )


def _check_length(run: StarRun) -> None:
    if run.optim.steps == 0 and run.model.weights is None:
        raise FieldError("optim.steps", "0 steps train nothing; give at least 1, or model.weights to use as they are")
    if run.optim.stop_at_step is not None and run.optim.stop_at_step >= run.total_steps:
        raise FieldError(
            "optim.stop_at_step",
            f"{run.optim.stop_at_step} is not before the end, {run.total_steps} steps; leave it out",
        )

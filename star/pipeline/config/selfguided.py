"""The section `selfguided` of a run: ST-AR itself. Every hyper-parameter, its default (the paper's) and its range.

Equations and tables are those of arXiv:2509.15185.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from star.spec.base import Count, FieldError, LayerRef, NonNegative, Positive, Section, is_new
from star.spec.renames import in_section, under_new_names


def num_masked(mask_ratio: float, length: int) -> int:
    """How many of the T - 1 code inputs of a sequence are hidden: the same number in every one."""
    return round(mask_ratio * (length - 1))


class SelfGuidedSpec(Section):
    """ST-AR itself (section 3.3). All weights zero is the plain baseline: no teacher, no mask."""

    num_views: Annotated[int, Field(ge=1, le=20)] = Field(
        2, description="M: distinct views of each image in a step; ten for each crop range are stored"
    )
    student_views: Annotated[int, Field(ge=1, le=20)] = Field(
        2, description="views the student sees, at most num_views (figure 3 draws 1, the text feeds both)"
    )
    mask_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.25, description="r: share of code positions hidden as keys (Eq. 3)"
    )
    mask_self: bool = Field(True, description="a hidden position is hidden from its own query too")
    mask_when: Literal["mim", "always"] = Field(
        "mim", description="without the MIM loss the student is not masked, or always is"
    )
    mim_weight: NonNegative = Field(1.0, description="alpha (Eq. 8); 0 builds no MIM loss")
    mim_distance: Literal["cosine", "l2", "smooth_l1"] = Field("cosine", description="D of Eq. 4")
    mim_positions: Literal["all", "masked"] = Field("all", description="positions the MIM loss averages over")
    mim_tap: Literal["post_norm", "pre_norm"] = Field(
        "post_norm", description="last hidden states after or before the final norm"
    )
    contrastive_weight: NonNegative = Field(0.5, description="beta (Eq. 8); 0 builds no contrastive loss")
    inter_step: bool = Field(True, description="L_step (Eq. 6): same view, other position")
    inter_view: bool = Field(True, description="L_view (Eq. 7): same position, other view")
    single_contrastive_scale: Positive = Field(
        0.5, description="factor of beta when only one of the two is on (Eq. 8 has 1/2 for both)"
    )
    contrastive_layer: LayerRef = Field(
        "1/2", description="1-based layer, or fraction of the depth, whose output is contrasted (table 5)"
    )
    num_positions: Count = Field(4, description="K: positions drawn per step, shared by the batch (table 6)")
    temperature: Positive = Field(0.2, description="divides the similarities; the paper prints none")
    normalize: bool = Field(True, description="l2-normalise both sides before the dot product")
    contrastive_form: Literal["infonce", "ratio"] = Field(
        "infonce", description="minus the log of the ratio, or the printed ratio itself"
    )
    reduction: Literal["mean", "sum"] = Field(
        "mean", description="mean over anchors and pairs, or the printed sum divided by B"
    )
    projector_layers: Annotated[int, Field(ge=1, le=8)] = Field(3, description="linear layers of f, SiLU between")
    projector_hidden: Count = 2048
    teacher_projector: bool = Field(
        False, description="contrast against the EMA projector of the teacher's features, as MoCo v3 does"
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(0.9999, description="of the teacher's weights")
    ema_ramp: bool = Field(False, description="decay min(d, (1+t)/(10+t)) at step t, for short schedules")

    @model_validator(mode="after")
    def _views(self, info: ValidationInfo) -> SelfGuidedSpec:
        if "student_views" in self.model_fields_set and self.student_views > self.num_views and is_new(info):
            raise FieldError(
                "student_views",
                f"the student cannot see {self.student_views} of {self.num_views} views; give num_views or fewer",
                "num_views",
            )
        if self.mim and self.mim_positions == "masked" and not self.masked:
            raise FieldError("mim_positions", "masked needs masked positions; give a mask_ratio above 0")
        if self.contrastive and self.inter_view and self.num_views < 2:
            raise FieldError(
                "num_views", "the inter-view loss needs at least 2 views; give 2, or set inter_view: false"
            )
        if self.contrastive and self.inter_step and self.num_positions < 2:
            raise FieldError(
                "num_positions", "the inter-step loss needs at least 2 positions; give 2, or set inter_step: false"
            )
        return self

    @property
    def mim(self) -> bool:
        """Whether the masked-feature (MIM) loss is part of the objective."""
        return self.mim_weight > 0

    @property
    def contrastive(self) -> bool:
        """Whether a contrastive loss is built."""
        return self.contrastive_weight > 0 and (self.inter_step or self.inter_view)

    @property
    def teacher(self) -> bool:
        """Whether there is a teacher: the MIM loss or a contrastive loss needs one."""
        return self.mim or self.contrastive

    @property
    def masked(self) -> bool:
        """Whether the student's attention is masked."""
        return self.mask_ratio > 0 and (self.mim or self.mask_when == "always")

    def identity(self) -> dict[str, Any]:
        """The fields in the key: none of a loss that is off, so baselines with different mask ratios are one run."""
        unused: set[str] = set()
        if not self.mim:
            unused |= {"mim_weight", "mim_distance", "mim_positions", "mim_tap"}
        if not self.contrastive:
            unused |= {
                name for name in type(self).model_fields if name.startswith(("contrastive", "inter_", "projector"))
            }
            unused |= {
                "single_contrastive_scale",
                "num_positions",
                "temperature",
                "normalize",
                "reduction",
                "teacher_projector",
            }
        if self.contrastive and self.inter_step and self.inter_view:
            unused |= {"single_contrastive_scale"}
        if not self.masked:
            unused |= {"mask_ratio", "mask_self", "mask_when"}
        if not self.teacher:
            unused |= {"ema_decay", "ema_ramp"}
        values = self.model_dump(mode="json", exclude=unused)
        if self.mim and "mask_when" in values:
            values["mask_when"] = "mim"  # only without the MIM loss it decides anything
        if self.projector_layers == 1 and "projector_hidden" in values:
            values["projector_hidden"] = type(self).model_fields["projector_hidden"].default
        values["student_views"] = min(self.student_views, self.num_views)
        if "single_contrastive_scale" in values:  # its former name, which keys keep
            values["lone_factor"] = values.pop("single_contrastive_scale")
        return values

    @model_validator(mode="before")
    @classmethod
    def _former(cls, values: Any) -> Any:
        return under_new_names(values, in_section("selfguided"))

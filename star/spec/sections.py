"""The sections of the method: every knob, its default (the paper's) and its range.

Numbers such as the mask ratio or a loss weight have their default here and nowhere else. Equations and tables
are those of arXiv:2509.15185.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from star.spec.base import Count, FieldError, GivenPath, LayerRef, NonNegative, Positive, Section, Share
from star.spec.renames import in_section, under_new_names


class ModelSpec(Section):
    """The LlamaGen transformer."""

    weights: GivenPath | None = Field(
        None, description="a LlamaGen checkpoint to start from (with optim.steps: 0 as it is); its hash enters the key"
    )
    n_layer: Count = 12
    n_head: Count = 12
    dim: Count = 768
    ffn_multiple_of: Count = Field(
        256, description="SwiGLU's hidden size, 2/3 * 4 * dim, is rounded up to a multiple of this"
    )
    rope_base: Positive = 10_000.0
    norm_eps: Positive = 1e-5
    init_std: Positive = Field(0.02, description="linear and embedding weights; the head starts at zero")
    token_dropout: Share = 0.1
    residual_dropout: Share = Field(0.1, description="on the attention's output")
    ffn_dropout: Share = 0.1
    class_dropout_prob: Share = Field(0.1, description="share of images that train under the null label")
    class_dropout_per: Literal["image", "view"] = Field(
        "image", description="one draw per image (its views and the teacher share it), or per view"
    )

    @model_validator(mode="after")
    def _heads(self) -> ModelSpec:
        if self.dim % self.n_head or (self.dim // self.n_head) % 4:
            raise FieldError(
                "dim",
                f"{self.dim} does not split into {self.n_head} heads of a multiple of 4 channels, which the 2-D rotary embedding needs",
            )
        return self

    def identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"weights"})

    @property
    def ffn_hidden(self) -> int:
        """SwiGLU's hidden size."""
        return math.ceil(int(2 * 4 * self.dim / 3) / self.ffn_multiple_of) * self.ffn_multiple_of


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
    def _views(self) -> SelfGuidedSpec:
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
        """Whether there is a teacher at all."""
        return self.mim or self.contrastive

    @property
    def masked(self) -> bool:
        """Whether the student's attention is masked."""
        return self.mask_ratio > 0 and (self.mim or self.mask_when == "always")

    def identity(self) -> dict[str, Any]:
        """Fields of a loss that is off do not count: two baselines with different mask ratios are one run."""
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
        values["student_views"] = min(self.student_views, self.num_views)
        if "single_contrastive_scale" in values:  # as it was called when keys began
            values["lone_factor"] = values.pop("single_contrastive_scale")
        return values

    @model_validator(mode="before")
    @classmethod
    def _former(cls, values: Any) -> Any:
        return under_new_names(values, in_section("selfguided"))


class OptimSpec(Section):
    """AdamW and its schedule (section 4.1; the printed beta2 = 0.05 is a slip for 0.95)."""

    steps: Annotated[int, Field(ge=0)] | None = Field(
        None, description="optimizer steps; give this or epochs; 0 only with model.weights"
    )
    epochs: Count | None = Field(None, description="passes over the training images; give this or steps")
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
        if (self.steps is None) == (self.epochs is None):
            raise FieldError("", "give exactly one of steps and epochs (null takes one away)")
        return self

    def identity(self) -> dict[str, Any]:
        """A run to the end is what it was before there was another."""
        values = self.model_dump(mode="json", exclude={"stop_at_step"})
        return values | ({"until": self.stop_at_step} if self.stop_at_step else {})  # as it was called when keys began


class GenerateSpec(Section):
    """Sampling. One uniform number per image and position, so the images do not depend on the batch size."""

    num_images: Annotated[int, Field(ge=16)] = 50_000
    weights: Literal["student", "teacher"] = Field(
        "student", description="whose weights sample (LlamaGen samples the raw ones)"
    )
    labels: Literal["balanced", "uniform"] = Field(
        "balanced", description="the same number of each class, or classes drawn at random"
    )
    cfg_scale: Annotated[float, Field(ge=1, le=100)] = Field(
        1.0, description="1 is no classifier-free guidance (table 1)"
    )
    cfg_until: Count | None = Field(
        None, description="guidance is switched off after this position; LlamaGen's cfg_interval i is i + 2 here"
    )
    temperature: Positive = 1.0
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="0 keeps all codes")
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the transformer while it samples; LlamaGen samples in bf16, and decodes in fp32"
    )
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None,
        description="side to which decoded images are brought before they become bytes, bicubic without antialiasing as LlamaGen "
        "brings 384 to 256; null keeps",
    )
    samples: GivenPath | None = Field(
        None,
        description="images of another model to score in place of ours: an .npz or .npy, or a folder; nothing is trained",
    )

    def identity(self) -> dict[str, Any]:
        """Images that are given are known by their contents alone."""
        unused = {"samples"} | ({"precision"} if self.precision == "fp32" else set())
        unused |= {"image_size"} if self.image_size is None else set()
        return {} if self.samples else self.model_dump(mode="json", exclude=unused)


class ScoreSpec(Section):
    """Generated against reference images. Distances carry the name of the network whose features they use."""

    extractor: Literal["efficientnet-lite0", "inception"] = Field(
        "efficientnet-lite0", description="inception gives the field's FID, sFID and IS; it needs its weights"
    )
    weights: GivenPath | None = Field(
        None,
        description="inception: its file; null: the one that `star-exp weights fetch inception` keeps. Only the published file "
        "is taken, so it is outside the key",
    )
    reference: GivenPath | None = Field(
        None,
        description="a reference file in ADM's layout to compare with, in place of training images; its hash enters the key",
    )
    input_size: Annotated[int, Field(ge=32, le=512)] = Field(
        224, description="efficientnet-lite0: side to which it resizes its images"
    )
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None, description="side to which both sets are resized first; null keeps"
    )
    num_reference: Annotated[int, Field(ge=16)] = Field(50_000, description="reference images, from the training set")
    manifold_images: Annotated[int, Field(ge=16)] = Field(
        10_000, description="of which this many, spread evenly, serve precision and recall"
    )
    neighbours: Count = Field(3, description="k of precision and recall")
    is_split_size: Annotated[int, Field(ge=2)] = Field(5000, description="images of a split of the inception score")

    def identity(self) -> dict[str, Any]:
        """Fields that another extractor or another kind of reference reads do not count."""
        unused = {"weights", "reference"} | ({"input_size"} if self.extractor == "inception" else set())
        unused |= {"num_reference", "manifold_images"} if self.reference else set()
        return self.model_dump(mode="json", exclude=unused)


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
        description="training images as centre crops, or in each epoch as one of their stored views, drawn anew",
    )
    feature_dtype: Literal["fp32", "fp16"] = Field("fp32", description="in which features are kept")


class AttentionSpec(Section):
    """Where the trained transformer looks (figures 1a, 2 and 5)."""

    images: Count = Field(256, description="test images whose attention is averaged")
    label: Literal["class", "null"] = Field("class", description="the condition: each image's class, or none")
    positions: Count = Field(8, description="equally spaced positions T/n, ..., T whose maps are kept")
    shown: Count = Field(4, description="images whose maps are kept, one by one")


class InvarianceSpec(Section):
    """How many codes change between two views of an image that are slightly shifted (figure 1c)."""

    shifts: list[Count] = Field([1, 2, 4], min_length=1, description="pixels, to the right and down, each by itself")
    images: Count = Field(1000, description="test images")
    shown: Count = Field(4, description="images whose pixels and codes are kept")

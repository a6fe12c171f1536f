"""The section `generate` of a run: sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from star.spec.base import Count, FieldError, GivenPath, Positive, Section, Seed

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


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
    draw: Seed = Field(
        0,
        description="which random numbers sample: several draws from one model tell the noise of sampling from that of training",
    )
    temperature: Positive = Field(1.0, description="below 1e-5 as 1e-5, as in LlamaGen: the likeliest code")
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="0 keeps all codes")
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the transformer while it samples; LlamaGen samples in bf16, and decodes in fp32"
    )
    decode_precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32",
        description="of the tokenizer's decoder; on a GPU the coarser ones are faster (on an H200 tf32 4 times, bf16 compiled 10 times) "
        "and change pixel values, by 0.1 and by 1 to 1.5 of 255 on average",
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
        """The fields in the key; none if `samples` gives images, which are identified by their contents alone."""
        # fields that came later
        former = {"precision": "fp32", "decode_precision": "fp32", "image_size": None, "draw": 0}
        unused = {"samples", *(name for name, value in former.items() if getattr(self, name) == value)}
        values = self.model_dump(mode="json", exclude=unused)
        if self.cfg_scale == 1:
            values["cfg_until"] = None
        return {} if self.samples else values


def check(run: StarRun) -> None:
    spec = run.generate
    if spec.top_k > run.tokenizer.codebook_size:
        raise FieldError(
            "generate.top_k", f"{spec.top_k} is more than tokenizer.codebook_size = {run.tokenizer.codebook_size}"
        )
    if spec.decode_precision != "fp32" and (own := getattr(run.tokenizer, "name", "vq")) != "vq":
        raise FieldError("generate.decode_precision", f"the tokenizer {own} decodes in its own precision; use fp32")
    if spec.weights == "teacher" and not run.has_teacher:
        raise FieldError("generate.weights", "the plain baseline has no teacher to sample from; use student")

"""The section `model` of a run: the transformer."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from star.spec.base import Count, FieldError, GivenPath, Positive, Section, Share


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
            fitting = [str(n) for n in range(1, self.dim + 1) if self.dim % n == 0 and self.dim // n % 4 == 0]
            legal = f"n_head may be {', '.join(fitting)}" if fitting else "give a multiple of 4"
            raise FieldError(
                "dim",
                f"dim {self.dim} does not split into {self.n_head} heads of a multiple of 4 channels, which the 2-D rotary embedding "
                f"needs; {legal}",
                "n_head",
            )
        return self

    def identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"weights"})

    @property
    def ffn_hidden(self) -> int:
        """SwiGLU's hidden size."""
        return math.ceil(int(2 * 4 * self.dim / 3) / self.ffn_multiple_of) * self.ffn_multiple_of

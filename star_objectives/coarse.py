"""From coarse to fine, NPP (arXiv 2412.15321): for a part of training the input is 2 x 2 cells at a time."""

from __future__ import annotations

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from star.model.gpt import GPT, rope_table
from star.objectives import Arranged, Backbone, Batch, FieldError, Pass, Setting, Term, TermConfig

from .costs import causal, step_flops


class CoarseConfig(TermConfig):
    """How coarse, and how long; any weight above 0 switches it on."""

    patch: int = Field(2, ge=2, description="cells along a side of a patch, a divisor of the grid's side")
    until: float = Field(0.5, gt=0, le=1, description="share of the schedule that is coarse")


class Coarse(Term):
    """Up to `until`, an input is the mean of a patch's code embeddings, and an output predicts all codes of the next patch.

    Positions are those of a smaller grid, counted from 0, and one softmax serves all codes of a patch, a mean over them.
    Then training is plain, with the same weights. NPP also changes the schedule of the rate; this leaves the run's.
    """

    name = "coarse"
    version = 1
    config = CoarseConfig
    changes = frozenset({"sequence"})

    def __init__(self, fields: CoarseConfig, setting: Setting) -> None:
        if setting.grid % fields.patch or setting.grid == fields.patch:
            raise FieldError(
                "patch", f"{fields.patch} does not cut a grid of {setting.grid} x {setting.grid} codes into patches"
            )
        self.spec, self.setting = fields, setting
        self.side = setting.grid // fields.patch

    def flops(self) -> float:
        assert self.setting is not None
        length, patches = self.setting.length, self.side**2
        saved = step_flops(self.setting, length, causal(length)) - step_flops(self.setting, patches, causal(patches))
        return -self.spec.until * saved

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        if batch.progress < self.spec.until:
            batch.predicted = self._patches(batch.codes[:, : batch.student_views])

    def _patches(self, x: Tensor) -> Tensor:
        """(A, B, T) in raster order -> (A, B, patches, cells of a patch)."""
        patch = self.spec.patch
        return x.unflatten(2, (self.side, patch, self.side, patch)).transpose(3, 4).flatten(4, 5).flatten(2, 3)

    def build(self, student: Backbone) -> None:
        model = cast(GPT, student)
        self.rotations = rope_table(self.side, model.dim // model.spec.n_head, model.spec.rope_base)

    def arrange(self, model: Any, one: Pass, head: nn.Module | None) -> Arranged | None:
        assert one.images is not None
        if one.images[0].progress >= self.spec.until:
            return None
        cells = self._patches(one.codes[None])[0, :, :-1]  # the last patch is not read
        means = model.tok_embeddings(cells).mean(2)
        embedded = torch.cat([model.cls_embedding(one.labels), means.to(model.cls_embedding(one.labels).dtype)], dim=1)
        self.rotations = self.rotations.to(model.rope)
        return Arranged(model.tok_dropout(embedded, one.seeds), self.rotations)

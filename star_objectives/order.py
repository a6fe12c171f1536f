"""Random orders that end in raster order, RAR (arXiv 2411.00776): what is before a code need not be above and left of it."""

from __future__ import annotations

from typing import Any, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from star.model.gpt import GPT, all_rotations
from star.objectives import Arranged, Backbone, Batch, FieldError, Pass, Setting, Term, TermConfig


class OrderConfig(TermConfig):
    """When orders are random; any weight above 0 switches it on."""

    start: float = Field(
        0.5, ge=0, lt=1, description="share of the schedule up to which every image has a random order"
    )
    end: float = Field(0.75, gt=0, le=1, description="share from which none has; in between the chance falls linearly")

    @model_validator(mode="after")
    def _falls(self) -> OrderConfig:
        if self.start > self.end:
            raise FieldError("end", f"{self.end:g} is before start = {self.start:g}")
        return self


class Order(Term):
    """The codes of an image in a random order with a chance r, else in raster order; r falls from 1 to 0.

    An input keeps the position of its own cell, and a learnt row of the cell that it is to predict is added to it, times r:
    so the exported weights are those of a plain model. (RAR keeps the rows, whose position table takes them in.) All views
    of an image have one order, in student and teacher.
    """

    name = "order"
    version = 1
    config = OrderConfig
    changes = frozenset({"order"})
    averages_head = True

    def __init__(self, fields: OrderConfig, setting: Setting) -> None:
        self.spec = fields

    def chance(self, progress: float) -> float:
        """r: the chance of a random order."""
        if progress < self.spec.start:
            return 1.0
        return (self.spec.end - progress) / (self.spec.end - self.spec.start) if progress < self.spec.end else 0.0

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        """The cells in the order of each image, (B, T) long from 0."""
        count, _, length = batch.codes.shape
        shuffled = torch.rand(count, length, generator=generator).argsort(-1)
        is_random = torch.rand(count, 1, generator=generator) < self.chance(batch.progress)
        order = torch.where(is_random, shuffled, torch.arange(length))
        codes = batch.codes[:, : batch.student_views]
        batch.drawn[self.name] = order
        batch.predicted = codes.gather(-1, order[:, None].expand_as(codes))[..., None]

    def build(self, student: Backbone) -> nn.Module:
        model = cast(GPT, student)
        self.rotations = all_rotations(model.grid, model.dim // model.spec.n_head, model.spec.rope_base)
        return _Table(model.grid**2, model.dim)

    def arrange(self, model: Any, one: Pass, head: nn.Module | None) -> Arranged:
        assert one.images is not None and head is not None
        batch, rows = one.images
        order = batch.drawn[self.name][rows]
        order = order.repeat_interleave(len(one.codes) // len(order), dim=0)
        embedded = model.embed(one.codes.gather(1, order), one.labels, one.seeds)
        rows_of_targets: Tensor = head(order)
        embedded = embedded + (self.chance(batch.progress) * rows_of_targets).to(embedded.dtype)
        places = torch.cat([torch.zeros_like(order[:, :1]), order[:, :-1] + 1], dim=1)  # 0 is the condition's
        self.rotations = self.rotations.to(model.rope)
        return Arranged(embedded, self.rotations[:, places][:, :, None])


class _Table(nn.Module):
    """A learnt row for every cell, zero at first."""

    def __init__(self, cells: int, dim: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(cells, dim))

    def forward(self, order: Tensor) -> Tensor:
        return self.rows[order]

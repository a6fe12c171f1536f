"""Registers, MuToR-2D (arXiv 2505.10518): tokens between the codes that predict codes further on."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from star.objectives import (
    Arranged,
    Backbone,
    Batch,
    Features,
    FieldError,
    Pass,
    Setting,
    StudentOutput,
    Term,
    TermConfig,
)
from star.objectives.next_token import code_loss

from .costs import block_flops, head_flops


class RegistersConfig(TermConfig):
    """How many, and how far they look; with `weight` 1 the sum is twice the paper's mean of both losses."""

    share: float = Field(0.3125, gt=0, le=1, description="registers of a sequence, as a share of its codes: 80 of 256")
    window: int | None = Field(
        None,
        ge=2,
        description="rows and columns in which the predicted cell lies, the code's own included; null: 4, or 2 of a grid below 8 x 8",
    )


class Registers(Term):
    """Cross entropy of the code at t + d, predicted by a register behind code t; a mean over registers.

    A register is one learnt vector at the position of the cell before the predicted one. It sees the codes up to t and
    itself, and nothing sees it; the head is the model's. A sequence has one offset d = (i - 1) g + j - 1, with i and j
    drawn from 1 to `window`, not both 1; g is the grid's side, and cells of the next row count as to the right of the
    last. Places t are drawn among those whose t + d is in the image.
    """

    name = "registers"
    version = 1
    config = RegistersConfig
    changes = frozenset({"sequence"})
    loss_names = ("registers_loss",)

    def __init__(self, fields: RegistersConfig, setting: Setting) -> None:
        self.spec, self.setting = fields, setting
        self.count = max(1, round(fields.share * setting.length))
        self.window = fields.window or (4 if setting.grid >= 8 else 2)
        furthest = (self.window - 1) * (setting.grid + 1)
        if self.count > setting.length - furthest:
            left = max(0, setting.length - furthest)
            raise FieldError(
                "window",
                f"{self.window} leads {furthest} cells on, which leaves {left} of {setting.length} places for {self.count} "
                "registers; give a smaller window or share",
            )

    def flops(self) -> float:
        assert self.setting is not None
        seen = self.count * (self.setting.length / 2 + 1)
        blocks = self.setting.n_layer * block_flops(self.setting, self.count, seen)
        return 3 * (blocks + head_flops(self.setting, self.count))

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        """Each register's code t, and its cell t + d, both (B, S, R) long and counted from 1."""
        assert self.setting is not None
        count, views, length = len(batch.codes), batch.student_views, self.setting.length
        offset = torch.randint(1, self.window**2, (count, views, 1), generator=generator)  # 0 is (1, 1)
        further = offset // self.window * self.setting.grid + offset % self.window
        order = torch.rand(count, views, length, generator=generator)
        order = order.masked_fill(torch.arange(1, length + 1) + further > length, 2.0).argsort(-1)
        places = order[..., : self.count] + 1
        batch.drawn[self.name] = torch.stack([places, places + further], dim=-1)
        batch.predicted = batch.codes[:, :views, :, None]

    def build(self, student: Backbone) -> nn.Module:
        self._student = student
        return _Register(student.dim)

    def arrange(self, model: Any, one: Pass, head: nn.Module | None) -> Arranged:
        assert one.images is not None and head is not None
        batch, rows = one.images
        places, cells = batch.drawn[self.name][rows].flatten(0, 1).unbind(-1)  # (N, R) each
        codes = model.embed(one.codes, one.labels, one.seeds)
        registers: Tensor = head(places.shape)
        embedded = torch.cat([codes, registers.to(codes.dtype)], dim=1)
        own = torch.arange(codes.shape[1], device=places.device).expand(len(places), -1)
        rope = model.rope[:, torch.cat([own, cells - 1], dim=1)][:, :, None]
        return Arranged(embedded, rope, _attend(places, codes.shape[1]))

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        """The cross entropy, summed over registers."""
        cells = batch.drawn[self.name][rows].flatten(0, 1)[..., 1]
        codes = batch.codes[rows, : batch.student_views].flatten(0, 1).gather(1, cells - 1)
        return code_loss(self._student.output, states.final[:, -self.count :].flatten(0, 1), codes.flatten())

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        return {"registers_loss": out.read[self.name] / batch.drawn[self.name][..., 0].numel()}


class _Register(nn.Module):
    """One vector for all registers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(dim).normal_(std=dim**-0.5))

    def forward(self, shape: torch.Size) -> Tensor:
        return self.vector.expand(*shape, -1)


def _attend(places: Tensor, length: int) -> Tensor:
    """(N, R) codes, counted from 1 -> (N, 1, T + R, T + R) bool: True where a query (row) sees a key (column)."""
    count = places.shape[1]
    input_of = torch.arange(length, device=places.device)  # input t holds code t, 0 the condition
    causal = (input_of[:, None] >= input_of).expand(len(places), length, length)
    seen = input_of <= places[..., None]  # (N, R, T)
    above = torch.cat([causal, causal.new_zeros(len(places), length, count)], dim=2)
    itself = torch.eye(count, dtype=torch.bool, device=places.device).expand(len(places), count, count)
    return torch.cat([above, torch.cat([seen, itself], dim=2)], dim=1)[:, None]

"""Foresight, Mirai-E (arXiv 2601.14671): states are to say what a moving average of the model sees at cells to come."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from star.objectives import (
    Backbone,
    Batch,
    Features,
    FieldError,
    LayerRef,
    Setting,
    StudentOutput,
    TeacherReads,
    Term,
    TermConfig,
)
from star.objectives.mim import mim_loss

from .projectors import published, published_flops

Offset = Literal["here", "right", "below"]


class ForesightConfig(TermConfig):
    """Which cells are foreseen; `weight` is that of each offset (2.0 in Mirai's code)."""

    offsets: list[Offset] = Field(["here", "right", "below"], min_length=1, description="cells whose state is foreseen")
    layer: LayerRef = Field("~2/3", description="1-based layer, or fraction of the depth, of student and teacher")
    halve_at: float = Field(0.5, ge=0, le=1, description="share of the schedule from which the weight is half")
    start_at: float = Field(0.05, ge=0, lt=1, description="share of the schedule before which the weight is 0")
    wrap: bool = Field(
        False, description="true: the last cell of a row has the next row's first to its right, as in Mirai's code"
    )


class Foresight(Term):
    """L = sum over offsets o of mean over p of 1 - cos(phi_o(h_p), H_{p+o}), both at one layer.

    h_p is the student's state that predicts cell p, H that of its moving average, which sees the codes without noise.
    Each offset has a projector phi of its own: 0 (here), 1 (right) and the grid's side (below). Pairs that leave the
    image are left out, and with `wrap: false` those that leave the row.
    """

    name = "foresight"
    version = 1
    config = ForesightConfig
    loss_names = ("foresight_loss",)
    teacher = TeacherReads()

    def __init__(self, fields: ForesightConfig, setting: Setting) -> None:
        if len(set(fields.offsets)) < len(fields.offsets):
            raise FieldError("offsets", f"{', '.join(fields.offsets)}: one is there twice")
        if fields.halve_at < fields.start_at:
            raise FieldError("halve_at", f"{fields.halve_at:g} is before start_at = {fields.start_at:g}")
        setting.needs_neighbours(self.name)
        self.spec, self.setting = fields, setting
        layer = setting.layer(fields.layer, "layer")
        self.layers = (layer,)
        self.teacher = TeacherReads(layers=(layer,))
        self.pairs = [_pairs(offset, setting.grid, fields.wrap) for offset in fields.offsets]
        self.others = torch.cat([other for _, other in self.pairs])

    def flops(self) -> float:
        dim = self._width
        return published_flops(dim, dim, sum(len(own) for own, _ in self.pairs))

    @property
    def _width(self) -> int:
        assert self.setting is not None
        return self.setting.dim

    def build(self, student: Backbone) -> nn.Module:
        return nn.ModuleList(published(student.dim, student.dim) for _ in self.pairs)

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        """Each offset's projected states one after another, (N, pairs of all offsets, D)."""
        assert isinstance(self.head, nn.ModuleList)
        found = states.layer_features[self.layers[0]]
        self._to(found.device)
        each = zip(self.head, self.pairs, strict=True)
        return torch.cat([head(found[:, own]) for head, (own, _) in each], dim=1)

    def _to(self, device: torch.device) -> None:
        """Move the pairs' indices, once: copying them in each step would wait for a GPU."""
        if self.others.device != device:
            self.pairs = [(own.to(device), other.to(device)) for own, other in self.pairs]
            self.others = self.others.to(device)

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor:
        """The teacher's states in the same order, (images, S, pairs of all offsets, D)."""
        assert states is not None
        found = states.layer_features[self.layers[0]]
        self._to(found.device)
        return found[:, :, self.others]

    def weight_at(self, progress: float) -> float:
        if progress < self.spec.start_at:
            return 0.0
        return self.weight if progress < self.spec.halve_at else self.weight / 2

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        assert targets is not None
        sizes = [len(own) for own, _ in self.pairs]
        foreseen = out.read[self.name].view_as(targets).split(sizes, dim=2)
        sequences = len(batch.codes) * batch.student_views
        each = zip(foreseen, targets.split(sizes, dim=2), sizes, strict=True)
        total = torch.stack([mim_loss(own, other) / (sequences * size) for own, other, size in each]).sum()
        return {"foresight_loss": total}


def _pairs(offset: Offset, grid: int, wrap: bool) -> tuple[Tensor, Tensor]:
    """The cells from which an offset leads to a cell of the image, and these cells, from 0."""
    cells = torch.arange(grid * grid)
    if offset == "here":
        return cells, cells
    if offset == "below":
        return cells[:-grid], cells[grid:]
    own = cells[:-1] if wrap else cells[cells % grid < grid - 1]
    return own, own + 1

"""Alignment with a frozen encoder: REPA (arXiv 2410.06940) on LlamaGen as GEAR (2606.32039) and iFSQ (2601.17124) have it, and Mirai-I.

Mirai-I is of arXiv 2601.14671.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from star.data.codes import CodeStore
from star.errors import DataError
from star.objectives import Backbone, Batch, Features, LayerRef, Setting, StudentOutput, Term, TermConfig
from star.objectives.mim import mim_loss
from star.plugin import Job

from .projectors import published, published_flops


class AlignConfig(TermConfig):
    """REPA on LlamaGen-B in GEAR: layer ~1/3, weight 0.5, predictive; iFSQ's L: weight 2.0. Mirai-I: ~2/3, 2.0, consuming.

    `features` names the encoder.
    """

    layer: LayerRef = Field("~1/3", description="1-based layer, or fraction of the depth, whose states are aligned")
    pairing: Literal["predictive", "consuming"] = Field(
        "predictive", description="the cell of a state: the one that it is to predict, or the one that it has just read"
    )
    positions: int | None = Field(None, ge=1, description="so many cells, drawn for each step; null: all")


class Align(Term):
    """L = mean over cells p of 1 - cos(phi(h), f_p), f the frozen encoder's map of the same crop.

    h is the state that predicts cell p (predictive), or has just read it (consuming: the last cell is never read). phi is
    an MLP of three linear layers with SiLU, trained with the model and left out of it.
    """

    name = "align"
    version = 1
    config = AlignConfig
    after = ("features",)
    loss_names = ("align_loss",)

    def __init__(self, fields: AlignConfig, setting: Setting) -> None:
        if fields.pairing == "consuming":
            setting.needs_neighbours(self.name)
        self.spec, self.setting = fields, setting
        self.layers = (setting.layer(fields.layer, "layer"),)

    @property
    def _cells(self) -> int:
        """Cells that have a state."""
        assert self.setting is not None
        return self.setting.length - (self.spec.pairing == "consuming")

    @property
    def _compared(self) -> int:
        return min(self._cells, self.spec.positions or self._cells)

    def flops(self) -> float:
        assert self.setting is not None
        return published_flops(self.setting.dim, self.setting.feature_channels, self._compared)

    def prepare(self, job: Job) -> None:
        """Open the maps, which stay on disk."""
        self.codes = CodeStore(job.inputs["encode"] / "train")
        self.maps: np.ndarray = np.load(job.inputs["features"] / "features.npy", mmap_mode="r")
        wanted = (self.codes.num_rows, self.codes.num_views, self.codes.length)
        if self.maps.shape[:3] != wanted:
            raise DataError(
                f"features: maps of {self.maps.shape[0]} images, {self.maps.shape[1]} views and {self.maps.shape[2]} cells do not fit the "
                f"codes of {' x '.join(map(str, wanted))}: imported codes have to be of the views that `data` describes."
            )

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        """The cells that are compared, (K,) long from 0, the same for all sequences."""
        batch.drawn[self.name] = torch.randperm(self._cells, generator=generator)[: self._compared]

    def build(self, student: Backbone) -> nn.Module:
        return published(student.dim, self.maps.shape[-1])

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        """Projected states (N, K, C)."""
        assert self.head is not None
        shift = 1 if self.spec.pairing == "consuming" else 0
        found: Tensor = self.head(states.layer_features[self.layers[0]][:, batch.drawn[self.name] + shift])
        return found

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor:
        """The encoder's vectors (images, S, K, C) of the student's views."""
        assert batch.images is not None and batch.views is not None
        images = self.codes.rows_of(batch.images[rows].numpy())
        views, cells = batch.views[rows, : batch.student_views].numpy(), batch.drawn[self.name]
        found = torch.from_numpy(self.maps[images[:, None], views])
        if cells.device.type == "cuda":
            found = found.pin_memory()
        return found.to(cells.device, non_blocking=True)[:, :, cells].float()

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        assert targets is not None
        summed = mim_loss(out.read[self.name].view_as(targets), targets)
        return {"align_loss": summed / (len(batch.codes) * batch.student_views * targets.shape[2])}

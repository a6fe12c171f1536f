"""Token-level contrast, the regulariser of MTAR (arXiv 2608.25386): a state is to be told from others through dropout."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from star.errors import DataError
from star.model.dropout import SequenceDropout, layer_seeds
from star.objectives import Backbone, Batch, Features, Setting, StudentOutput, Term, TermConfig
from star.objectives.precision import at_least_fp32, autocast_if


class TcrConfig(TermConfig):
    """`weight` 0.2 as published."""

    tokens: int = Field(
        2048, ge=2, description="states of the batch that are compared, drawn in each step; all if there are fewer"
    )
    dropout: float = Field(0.2, gt=0, lt=1, description="of the states; its two draws are what is compared")
    outputs: int = Field(256, ge=1, description="channels of what is compared")
    temperature: float = Field(0.07, gt=0)
    among: Literal["batch", "image"] = Field(
        "batch",
        description="what a state is told from: all drawn states of the batch, as published, which then has to be one pass on one GPU; "
        "or those of its own sequence, which any split of the batch leaves as they are",
    )


class Tcr(Term):
    """Cross entropy of (z_i . z'_j) / temperature over j, with the right answer j = i; mean over states i.

    z and z' are the same states after the final norm through one MLP (linear, GELU, linear) with two draws of dropout,
    normalised. States are those that have read a code. Negatives include neighbours and other images of the class; both
    sides have a gradient, and the loss has one direction, all as in MTAR's code.
    """

    name = "tcr"
    version = 1
    config = TcrConfig
    loss_names = ("tcr_loss",)

    def __init__(self, fields: TcrConfig, setting: Setting) -> None:
        self.spec, self.setting = fields, setting

    def check(self, images: int, views: int, length: int) -> None:
        if length < 3:
            raise ValueError(
                f"tcr compares states that have read a code, and codes of {length} positions have one; give larger images"
            )

    def flops(self) -> float:
        assert self.setting is not None
        dim, length = self.setting.dim, self.setting.length
        return 6.0 * 2 * (length - 1) * (dim * dim + dim * self.spec.outputs)

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        """The states that are compared, (B, S, T) bool, never the condition's; and two dropout seeds of each sequence."""
        count, _, length = batch.codes.shape
        shape = (count, batch.student_views, length - 1)
        order = torch.rand(shape, generator=generator)
        sequences = count * batch.student_views
        if self.spec.among == "batch":
            ranks = order.flatten().argsort().argsort().view(shape)
            chosen = ranks < self.spec.tokens
        else:
            chosen = order.argsort(-1).argsort(-1) < max(2, self.spec.tokens // sequences)
        condition = torch.zeros(*shape[:2], 1, dtype=torch.bool)
        batch.drawn[self.name] = torch.cat([condition, chosen], dim=-1)
        batch.drawn[f"{self.name}_seeds"] = torch.randint(2**31 - 1, (*shape[:2], 2), generator=generator).int()

    def build(self, student: Backbone) -> nn.Module:
        return _Head(student.dim, self.spec.outputs, self.spec.dropout)

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        """Both sides, (2, N, T, outputs), normalised."""
        head: Any = self.head
        seeds = batch.drawn[f"{self.name}_seeds"][rows].flatten(0, 1)
        both = torch.stack([head(states.final, seeds[:, side]) for side in (0, 1)])
        return F.normalize(at_least_fp32(both), dim=-1)

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        whole = batch.drawn[self.name]
        if self.spec.among == "batch" and len(whole[rows]) < len(whole):
            raise DataError(
                f"terms.tcr.among: batch compares the whole batch of {len(whole)} images, and a pass has {len(whole[rows])}; give "
                "among: image, or the whole batch to one pass of one process (resources.micro_batch_size: null)."
            )
        chosen, (one, other) = whole[rows].flatten(0, 1), out.read[self.name]
        if self.spec.among == "batch":
            one, other = one[chosen][None], other[chosen][None]
        else:  # every sequence has as many
            one, other = (side[chosen].unflatten(0, (len(side), -1)) for side in (one, other))
        with autocast_if(one, False):
            similarity = one @ other.mT / self.spec.temperature
        right = torch.arange(similarity.shape[1], device=similarity.device).expand(similarity.shape[:2])
        summed = F.cross_entropy(similarity.flatten(0, 1), right.flatten(), reduction="sum")
        compared = (
            similarity.shape[1]
            if self.spec.among == "batch"
            else similarity.shape[1] * len(batch.codes) * batch.student_views
        )
        return {"tcr_loss": summed / compared}


class _Head(nn.Module):
    """Dropout, then an MLP of two layers."""

    def __init__(self, dim: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = SequenceDropout(dropout, site=0)
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, outputs)

    def forward(self, x: Tensor, seeds: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(self.dropout(x, layer_seeds(seeds, 0)))))

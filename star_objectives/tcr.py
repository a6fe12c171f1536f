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
    temperature: float = Field(0.07, gt=0, allow_inf_nan=False)
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
        setting.needs_neighbours(self.name)
        self.spec, self.setting = fields, setting
        self.whole_batch = "give among: image" if fields.among == "batch" else ""

    def check(self, images: int, views: int, length: int) -> None:
        if length < 3:
            raise ValueError(
                f"tcr compares states that have read a code, and codes of {length} positions have one; give larger images"
            )

    def flops(self) -> float:
        assert self.setting is not None
        dim, states, sequences = self.setting.dim, self.setting.length - 1, self.setting.sequences
        compared = min(states, self._per_sequence(sequences))
        others = compared * (sequences if self.spec.among == "batch" else 1)
        return 6.0 * compared * (2 * (dim * dim + dim * self.spec.outputs) + others * self.spec.outputs)

    def _per_sequence(self, sequences: int) -> float:
        share = self.spec.tokens / sequences
        return share if self.spec.among == "batch" else max(2, int(share))

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        """The states that are compared, never the condition's, and two dropout seeds of each sequence, (B, S, 2).

        States are places in all of the batch, (n,) long, or, among those of an image, in each sequence, (B, S, k).
        """
        count, views, length = *batch.codes.shape[:1], batch.student_views, batch.codes.shape[-1]
        if self.spec.among == "batch":
            drawn = torch.randperm(count * views * (length - 1), generator=generator)[: self.spec.tokens]
            places = drawn // (length - 1) * length + drawn % (length - 1) + 1
        else:
            each = min(length - 1, int(self._per_sequence(count * views)))
            places = torch.rand(count, views, length - 1, generator=generator).argsort(-1)[..., :each] + 1
        batch.drawn[self.name] = places
        batch.drawn[f"{self.name}_seeds"] = torch.randint(2**31 - 1, (count, views, 2), generator=generator).int()

    def build(self, student: Backbone) -> nn.Module:
        return _Head(student.dim, self.spec.outputs, self.spec.dropout)

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        """Both sides of the states that are compared with each other, normalised: (2, groups, states of a group, outputs)."""
        head: Any = self.head
        x, places = states.final, batch.drawn[self.name]
        seeds = batch.drawn[f"{self.name}_seeds"][rows].flatten(0, 1)
        if self.spec.among == "batch":
            self._check_whole(len(seeds), batch)
            places = places[None]
        else:
            first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
            places = places[rows].flatten(0, 1) + first
        both = [head(head.dropped(x, seeds[:, side]).flatten(0, 1)[places]) for side in (0, 1)]
        return F.normalize(at_least_fp32(torch.stack(both)), dim=-1)

    def _check_whole(self, sequences: int, batch: Batch) -> None:
        whole = len(batch.codes) * batch.student_views
        if sequences < whole:
            raise DataError(
                f"terms.tcr.among: batch compares all {whole} sequences of the batch, and a pass has {sequences}, for want of memory or as "
                "resources say; give among: image."
            )

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        one, other = out.read[self.name]
        with autocast_if(one, False):
            similarity = one @ other.mT / self.spec.temperature
        right = torch.arange(similarity.shape[1], device=similarity.device).expand(similarity.shape[:2])
        summed = F.cross_entropy(similarity.flatten(0, 1), right.flatten(), reduction="sum")
        return {"tcr_loss": summed / batch.drawn[self.name].numel()}


class _Head(nn.Module):
    """An MLP of two layers, and dropout before it."""

    def __init__(self, dim: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = SequenceDropout(dropout, site=0)
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, outputs)

    def dropped(self, x: Tensor, seeds: Tensor) -> Tensor:
        """States (N, T, D) with dropout as the sequences' seeds (N,) have it."""
        return self.dropout(x, layer_seeds(seeds, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))

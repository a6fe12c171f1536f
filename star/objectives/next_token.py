"""Next-code prediction (Eq. 2 of ST-AR, arXiv:2509.15185): what every run trains on."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from star.model.kernels import Linear
from star.objectives.backbone import Backbone, Features, StudentOutput
from star.objectives.batch import Batch
from star.objectives.linear_cross_entropy import linear_cross_entropy
from star.objectives.precision import at_least_fp32
from star.objectives.term import Term


class NextToken(Term):
    """Cross entropy of the codes, a mean over all positions of all student sequences."""

    name = "next_token"
    agrees_with = frozenset({"order", "sequence"})
    loss_names = ("ar_loss",)

    def build(self, student: Backbone) -> None:
        """Nothing of its own; it reads the student's head."""
        self._student = student

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        """The loss, summed over positions: in the student's pass, where the head's weight is at hand if it is sharded."""
        head = self._student.output
        if batch.predicted is not None:
            return _several(head, states.final, batch.predicted[rows].flatten(0, 1))
        hidden, codes = states.final.flatten(0, 1), batch.codes[rows, : batch.student_views].flatten()
        return code_loss(head, hidden, codes)

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        predicted = batch.codes[:, : batch.student_views] if batch.predicted is None else batch.predicted
        count = predicted.numel()
        return {"ar_loss": out.read[self.name] / count}


def code_loss(head: nn.Module, hidden: Tensor, codes: Tensor) -> Tensor:
    """The cross entropy of codes (M,) under a head that reads hidden (M, D), summed; without all logits if the head is plain."""
    if _is_plain(head):
        return linear_cross_entropy(hidden, cast(nn.Linear, head).weight, codes)
    return F.cross_entropy(at_least_fp32(head(hidden)), codes, reduction="sum")


def _several(head: nn.Module, final: Tensor, predicted: Tensor) -> Tensor:
    """The cross entropy of each of the k codes (N, t, k) that an output of final (N, t or more, D) predicts, summed."""
    length, each = predicted.shape[1:]
    if each == 1:
        return code_loss(head, final[:, :length].flatten(0, 1), predicted.flatten())
    logits = at_least_fp32(head(final[:, :length]))
    return (each * logits.logsumexp(-1)).sum() - logits.gather(-1, predicted).sum()


def _is_plain(head: nn.Module) -> bool:
    """Whether a head is its weight and nothing else: no subclass that computes more, no bias, no hooks."""
    return (
        type(head) in (nn.Linear, Linear) and head.bias is None and not (head._forward_hooks or head._forward_pre_hooks)
    )

"""Masked feature learning (Eq. 4 of ST-AR, arXiv:2509.15185).

The student's last hidden states, with hidden keys, against the teacher's without.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from star.objectives.backbone import Features, StudentOutput
from star.objectives.batch import Batch
from star.objectives.precision import at_least_fp32
from star.objectives.term import TeacherReads, Term
from star.pipeline.config.selfguided import SelfGuidedSpec, num_masked


class Mim(Term):
    """L_MIM: the mean distance over all positions (or only the hidden ones) of all student sequences."""

    name = "mim"
    agrees_with = frozenset({"order"})
    loss_names = ("mim_loss",)
    teacher = TeacherReads(final=True)

    def __init__(self, spec: SelfGuidedSpec) -> None:
        self.spec = spec

    def check(self, images: int, views: int, length: int) -> None:
        ratio = self.spec.mask_ratio
        if self.spec.mim_positions == "masked" and num_masked(ratio, length) == 0:
            raise ValueError(
                f"mask_ratio={ratio} hides none of {length - 1} positions, over which mim_positions='masked' averages; raise it"
            )

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        return states.final if self.spec.mim_tap == "post_norm" else states.pre_norm

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor:
        """The teacher's last hidden states (images, S, T, D)."""
        assert states is not None
        return self.read(states, batch, rows)

    def weight_at(self, progress: float) -> float:
        return self.spec.mim_weight

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        assert targets is not None
        _, views, length, _ = targets.shape
        hidden, each = None, length
        if self.spec.mim_positions == "masked":
            assert batch.token_mask is not None
            hidden, each = batch.token_mask[rows], num_masked(self.spec.mask_ratio, length)
        summed = mim_loss(out.read[self.name].view_as(targets), targets, self.spec.mim_distance, hidden)
        return {"mim_loss": summed / (len(batch.codes) * views * each)}


def mim_loss(student: Tensor, teacher: Tensor, distance: str = "cosine", token_mask: Tensor | None = None) -> Tensor:
    """Eq. 4 without its mean: the distance between hidden states (..., T, D), summed over all positions, () in at least float32.

    Args:
        distance: `cosine` (1 - cos), `l2` (mean square over channels), `smooth_l1` (mean over channels).
        token_mask: (..., T) bool; the sum is over positions where it is True. All positions when None.

    Raises:
        ValueError: `distance` is none of these.
    """
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    if distance == "cosine":
        each = 1 - F.cosine_similarity(student, teacher, dim=-1)
    elif distance == "l2":
        each = (student - teacher).square().mean(-1)
    elif distance == "smooth_l1":
        each = F.smooth_l1_loss(student, teacher, reduction="none").mean(-1)
    else:
        raise ValueError(f"distance {distance!r} is not legal; give cosine, l2 or smooth_l1")
    return (each if token_mask is None else each[token_mask]).sum()

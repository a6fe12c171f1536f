"""The training objective (Eq. 8) and the random draws of a step. The losses are weighted here and nowhere else.

The teacher's targets are computed first, for the whole global batch; they need no gradient. Then the student runs in
micro-batches against all of them, so the loss does not depend on how the batch is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star.model.gpt import GPT
from star.selfguided.losses import inter_step_loss, inter_view_loss, mim_loss, wide
from star.selfguided.masking import attend_mask, draw_hidden, hidden_count
from star.selfguided.teacher import EMATeacher, projector
from star.spec.sections import SelfGuidedSpec


@dataclass
class Batch:
    """One step's global batch."""

    codes: Tensor
    """(B, M, T) long: M distinct views of each image."""
    labels: Tensor
    """(B, M) long, class dropout applied: student and teacher see the same."""
    hidden: Tensor | None
    """(B, S, T) bool, True where a student's input position is hidden; None without masking."""
    positions: Tensor
    """(K,) long: drawn once for the batch, its views, student and teacher."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        hidden = None if self.hidden is None else self.hidden.to(device)
        return Batch(self.codes.to(device), self.labels.to(device), hidden, self.positions.to(device))


@dataclass
class Targets:
    """What the teacher says of a batch, without gradient."""

    final: Tensor | None
    """(B, S, T, D) hidden states for the MIM loss."""
    keys: Tensor | None
    """(B, M, K, D) features for the contrastive losses."""


def draw_batch(
    codes: Tensor,
    labels: Tensor,
    spec: SelfGuidedSpec,
    null_label: int,
    drop_prob: float,
    drop_per: str,
    generator: torch.Generator,
) -> Batch:
    """The random choices of one step: dropped labels, hidden positions, contrasted positions.

    Args:
        codes: (B, M, T) long.
        labels: (B,) long, as in the data.
        drop_prob: share of images (or views, with drop_per `view`) that get the null label.
        generator: seeded by run and step, so that a resumed run draws the same.
    """
    count, views, length = codes.shape
    dropped = torch.rand(count, views if drop_per == "view" else 1, generator=generator) < drop_prob
    labels = torch.where(dropped, null_label, labels[:, None]).expand(count, views)
    positions = torch.randperm(length, generator=generator)[: spec.num_positions if spec.contrastive else 0]
    student_views = min(spec.student_views, views)
    hidden = draw_hidden((count, student_views), length, spec.mask_ratio, generator) if spec.masked else None
    return Batch(codes, labels, hidden, positions)


class Objective(nn.Module):
    """L_AR + alpha L_MIM + beta/2 (L_step + L_view). A loss whose weight is 0 is not built.

    Args:
        spec: the section of the method.
        student: the model being trained; it is trained in place.
        contrastive_layer: 1-based layer whose output is contrasted.
    """

    def __init__(self, spec: SelfGuidedSpec, student: GPT, contrastive_layer: int) -> None:
        super().__init__()
        self.spec = spec
        self.student = student
        self.tap = contrastive_layer if spec.contrastive else None
        self.projector = projector(student.spec.dim, spec) if spec.contrastive else None
        self.teacher = EMATeacher(student, spec.ema_decay, spec.ema_ramp) if spec.teacher else None
        shadowed = self.projector if spec.teacher_projector else None
        self.teacher_projector = EMATeacher(shadowed, spec.ema_decay, spec.ema_ramp) if shadowed is not None else None

    def trained_parameters(self) -> list[nn.Parameter]:
        """Of student and projector."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def update_teacher(self, step: int) -> None:
        """Follow the student after optimizer step `step` (from 0)."""
        if self.teacher is not None:
            self.teacher.update(self.student, step)
        if self.teacher_projector is not None and self.projector is not None:
            self.teacher_projector.update(self.projector, step)

    @torch.no_grad()
    def targets(self, batch: Batch) -> Targets:
        """The teacher on unmasked sequences, without its head."""
        if self.teacher is None:
            return Targets(None, None)
        spec, (count, views, length) = self.spec, batch.codes.shape
        if not spec.contrastive:  # the MIM loss reads the student's views only
            views = min(spec.student_views, views)
        features = self.teacher.copy.features(
            batch.codes[:, :views].flatten(0, 1), batch.labels[:, :views].flatten(), tap=self.tap
        )
        final = keys = None
        if spec.mim:
            tapped = features.final if spec.mim_tap == "post_norm" else features.pre_norm
            final = tapped.view(count, views, length, -1)[:, : spec.student_views]
        if features.tapped is not None:
            keys = features.tapped.view(count, views, length, -1)[:, :, batch.positions]
            if self.teacher_projector is not None:
                keys = self.teacher_projector.copy(keys)
        return Targets(final, keys)

    def losses(self, batch: Batch, targets: Targets, rows: slice | None = None) -> dict[str, Tensor]:
        """The loss and its parts for images `rows` of the batch, as their share of the global batch's.

        Summed over all micro-batches they are the full-batch values: `loss` and, of `ar_loss`, `mim_loss`,
        `inter_step_loss` and `inter_view_loss`, those that are built.
        """
        spec = self.spec
        rows = rows or slice(0, len(batch.codes))
        first, total, length = rows.start, len(batch.codes), batch.codes.shape[-1]
        codes = batch.codes[rows, : spec.student_views]
        count, views, _ = codes.shape
        sequences = codes.flatten(0, 1)
        hidden = None if batch.hidden is None else batch.hidden[rows]
        attend = None if hidden is None else attend_mask(hidden.flatten(0, 1), spec.mask_self)
        labels = batch.labels[rows, :views].flatten()
        features = self.student.features(sequences, labels, attend, self.tap)

        logits = self.student.output(features.final)
        # Eq. 2, on the masked pass
        parts = {
            "ar_loss": F.cross_entropy(wide(logits.flatten(0, 1)), sequences.flatten(), reduction="sum")
            / (total * views * length)
        }
        loss = parts["ar_loss"]
        if targets.final is not None:
            parts["mim_loss"] = self._mim(
                features.final if spec.mim_tap == "post_norm" else features.pre_norm, targets.final[rows], hidden, total
            )
            loss = loss + spec.mim_weight * parts["mim_loss"]
        if targets.keys is not None:
            assert features.tapped is not None and self.projector is not None
            # only the K drawn positions pass the projector: on all T it would cost 15% of a plain step
            queries = self.projector(features.tapped.view(count, views, length, -1)[:, :, batch.positions])
            parts |= self._contrastive(queries, targets.keys, first, total)
            factor = 0.5 if spec.inter_step and spec.inter_view else spec.lone_factor
            loss = loss + spec.contrastive_weight * factor * sum(
                parts[name] for name in ("inter_step_loss", "inter_view_loss") if name in parts
            )
        return {"loss": loss, **parts}

    def _mim(self, student: Tensor, teacher: Tensor, hidden: Tensor | None, total: int) -> Tensor:
        spec, (_, views, length, _) = self.spec, teacher.shape
        masked_only = spec.mim_positions == "masked"
        each = hidden_count(spec.mask_ratio, length) if masked_only else length
        return mim_loss(student.view_as(teacher), teacher, spec.mim_distance, hidden if masked_only else None) / (
            total * views * each
        )

    def _contrastive(self, queries: Tensor, keys: Tensor, first: int, total: int) -> dict[str, Tensor]:
        spec, views, (_, all_views, positions, _) = self.spec, queries.shape[1], keys.shape
        arguments = (queries, keys, first, spec.temperature, spec.normalize, spec.contrastive_form)
        mean = spec.reduction == "mean"
        parts = {}
        if spec.inter_step:
            parts["inter_step_loss"] = inter_step_loss(*arguments) / (
                total * (views * positions * (positions - 1) if mean else 1)
            )
        if spec.inter_view:
            parts["inter_view_loss"] = inter_view_loss(*arguments) / (
                total * (views * (all_views - 1) * positions if mean else 1)
            )
        return parts

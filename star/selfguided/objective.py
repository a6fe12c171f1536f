"""The training objective (Eq. 8) and the random draws of a step. The losses are weighted here and nowhere else.

The teacher's targets are computed first, for the whole global batch; they need no gradient. Then the student runs in
micro-batches against all of them, so the loss depends neither on how the batch is cut nor on how many ranks share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star.selfguided.backbone import Backbone, StudentOutput, StudentWithProjector
from star.selfguided.losses import at_least_fp32, inter_step_loss, inter_view_loss, mim_loss
from star.selfguided.masking import attend_mask, num_masked, sample_token_mask
from star.selfguided.teacher import EMATeacher, projector
from star.spec.sections import SelfGuidedSpec


@dataclass
class Batch:
    """One step's global batch: every rank draws all of it and works on its own rows."""

    codes: Tensor
    """(B, M, T) long: M distinct views of each image."""
    labels: Tensor
    """(B, M) long, class dropout applied: student and teacher see the same."""
    token_mask: Tensor | None
    """(B, S, T) bool, True where a student's input position is hidden; None without masking."""
    positions: Tensor
    """(K,) long: drawn once for the batch, its views, student and teacher."""
    seeds: Tensor | None = None
    """(B, S) int32, of each student sequence's dropout; None when the student brings its own dropout, or none."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device. A GPU that still computes is not waited for: it copies from pinned memory by itself."""

        def moved(x: Tensor) -> Tensor:
            if device.type != "cuda" or x.device.type != "cpu":
                return x.to(device)
            return x.contiguous().pin_memory().to(device, non_blocking=True)

        token_mask, seeds = (None if x is None else moved(x) for x in (self.token_mask, self.seeds))
        return Batch(moved(self.codes), moved(self.labels), token_mask, moved(self.positions), seeds)


@dataclass
class Targets:
    """What the teacher says, without gradient."""

    final: Tensor | None
    """(R, S, T, D) hidden states of this rank's R images, for the MIM loss."""
    keys: Tensor | None
    """(B, M, K, D) features of the global batch, for the contrastive losses."""
    first: int = 0
    """Index in the global batch of the first image of `final`."""


def draw_batch(
    codes: Tensor,
    labels: Tensor,
    spec: SelfGuidedSpec,
    null_label: int,
    drop_prob: float,
    drop_per: str,
    generator: torch.Generator,
    dropout: bool = False,
) -> Batch:
    """The random choices of one step: dropped labels, hidden positions, contrasted positions.

    Args:
        codes: (B, M, T) long, of at least as many views as the losses compare.
        labels: (B,) long, as in the data.
        drop_prob: share of images (or views, with drop_per `view`) that get the null label.
        generator: seeded by run and step, so that a resumed run and every rank draw the same.
        dropout: draw a seed for each student sequence's dropout.

    Raises:
        ValueError: the losses that are on have nothing to compare: too few images, views or positions, or none hidden.
    """
    count, views, length = codes.shape
    check_batch(spec, count, views, length)
    dropped = torch.rand(count, views if drop_per == "view" else 1, generator=generator) < drop_prob
    labels = torch.where(dropped, null_label, labels[:, None]).expand(count, views)
    positions = torch.randperm(length, generator=generator)[: spec.num_positions if spec.contrastive else 0]
    student_views = min(spec.student_views, views)
    token_mask = sample_token_mask((count, student_views), length, spec.mask_ratio, generator) if spec.masked else None
    seeds = None
    if dropout:  # drawn last: without it the other draws are the same
        seeds = torch.randint(2**31 - 1, (count, student_views), generator=generator).int()
    return Batch(codes, labels, token_mask, positions, seeds)


def check_batch(spec: SelfGuidedSpec, images: int, views: int, length: int) -> None:
    """That every loss that is on has something to average over; an empty mean is NaN.

    Raises:
        ValueError: with what is missing and which field wants it.
    """
    if spec.contrastive and spec.inter_view and views < 2:
        raise ValueError(
            f"codes hold {views} view of each image, and the inter-view loss compares two or more; give them, or inter_view=False"
        )
    if spec.contrastive and images < 2:
        raise ValueError(f"codes hold {images} image, and the contrastive losses compare it with others; give more")
    if spec.contrastive and length < spec.num_positions:
        raise ValueError(f"codes have {length} positions, fewer than num_positions={spec.num_positions}; lower it")
    if spec.mim and spec.mim_positions == "masked" and num_masked(spec.mask_ratio, length) == 0:
        raise ValueError(
            f"mask_ratio={spec.mask_ratio} hides none of {length - 1} positions, over which mim_positions='masked' averages; raise it"
        )


class Objective(nn.Module):
    """L_AR + alpha L_MIM + beta/2 (L_step + L_view). A loss whose weight is 0 is not built.

    Args:
        spec: the section of the method.
        student: the model being trained; it is trained in place.
        contrastive_layer: 1-based layer whose output is contrasted.
    """

    def __init__(self, spec: SelfGuidedSpec, student: Backbone, contrastive_layer: int) -> None:
        super().__init__()
        self.spec = spec
        self.feature_layer = contrastive_layer if spec.contrastive else None
        self.learner = StudentWithProjector(student, projector(student.dim, spec) if spec.contrastive else None)
        self.teacher = EMATeacher(student, spec.ema_decay, spec.ema_ramp) if spec.teacher else None
        shadowed = self.learner.projector if spec.teacher_projector else None
        self.teacher_projector = EMATeacher(shadowed, spec.ema_decay, spec.ema_ramp) if shadowed is not None else None

    @property
    def student(self) -> Backbone:
        """The model being trained."""
        return self.learner.student

    @property
    def projector(self) -> nn.Module | None:
        """f, which only the student has."""
        return self.learner.projector

    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters of student and projector: those that the optimizer updates."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def update_teacher(self, step: int) -> None:
        """Follow the student after optimizer step `step` (from 0)."""
        if self.teacher is not None:
            self.teacher.update(self.student, step)
        if self.teacher_projector is not None and self.projector is not None:
            self.teacher_projector.update(self.projector, step)

    @torch.no_grad()
    def targets(
        self,
        batch: Batch,
        rows: slice | None = None,
        micro: int | None = None,
        gather: Callable[[Tensor], Tensor] = lambda own: own,
    ) -> Targets:
        """The teacher on unmasked sequences, without its head; only as deep as a loss that is on reads it.

        Args:
            rows: this rank's images; all when None.
            micro: images per forward pass.
            gather: own keys (R, M, K, D) -> those of all ranks in order, (B, M, K, D).
        """
        if self.teacher is None:
            return Targets(None, None)
        rows = rows or slice(0, len(batch.codes))
        micro = micro or rows.stop - rows.start
        starts = range(rows.start, rows.stop, micro)
        parts = [self._teach(batch, slice(first, min(first + micro, rows.stop))) for first in starts]
        finals = [final for final, _ in parts if final is not None]
        keys = [key for _, key in parts if key is not None]
        return Targets(
            torch.cat(finals) if finals else None, gather(torch.cat(keys)) if keys else None, first=rows.start
        )

    def _teach(self, batch: Batch, rows: slice) -> tuple[Tensor | None, Tensor | None]:
        assert self.teacher is not None
        spec, teacher, codes = self.spec, self.teacher.copy, batch.codes[rows]
        count, views, length = codes.shape
        if not spec.contrastive:  # the MIM loss reads the student's views only
            views = min(spec.student_views, views)
        sequences, labels = codes[:, :views].flatten(0, 1), batch.labels[rows, :views].flatten()
        final = None
        if spec.mim:
            features = teacher.features(sequences, labels, feature_layer=self.feature_layer)
            layer_features = features.layer_features
            final = features.final if spec.mim_tap == "post_norm" else features.pre_norm
            final = final.view(count, views, length, -1)[:, : spec.student_views]
        else:
            assert self.feature_layer is not None
            layer_features = teacher.hidden_at(sequences, labels, self.feature_layer)
        if layer_features is None:
            return final, None
        keys = layer_features.view(count, views, length, -1)[:, :, batch.positions]
        return final, keys if self.teacher_projector is None else self.teacher_projector.copy(keys)

    def losses(
        self,
        batch: Batch,
        targets: Targets,
        rows: slice | None = None,
        learner: Callable[..., StudentOutput] | None = None,
    ) -> dict[str, Tensor]:
        """The loss and its parts for images `rows` of the batch, as their share of the global batch's.

        Summed over all micro-batches and ranks they are the full-batch values: `loss` and, of `ar_loss`, `mim_loss`,
        `inter_step_loss` and `inter_view_loss`, those that are built.

        Args:
            rows: images of one forward pass; all when None.
            learner: what wraps `self.learner` (DistributedDataParallel), if anything does.

        Raises:
            ValueError: a loss that is on has nothing to compare in this batch.
        """
        spec = self.spec
        check_batch(spec, *batch.codes.shape)
        rows = rows or slice(0, len(batch.codes))
        first, total, length = rows.start, len(batch.codes), batch.codes.shape[-1]
        codes = batch.codes[rows, : spec.student_views]
        count, views, _ = codes.shape
        sequences = codes.flatten(0, 1)
        token_mask = None if batch.token_mask is None else batch.token_mask[rows]
        attend = None if token_mask is None else attend_mask(token_mask.flatten(0, 1), spec.mask_self)
        labels = batch.labels[rows, :views].flatten()
        seeds = None if batch.seeds is None else batch.seeds[rows].flatten()
        found = (learner or self.learner)(sequences, labels, attend, self.feature_layer, batch.positions, seeds)
        # Eq. 2, on the masked pass
        parts = {
            "ar_loss": F.cross_entropy(at_least_fp32(found.logits.flatten(0, 1)), sequences.flatten(), reduction="sum")
            / (total * views * length)
        }
        loss = parts["ar_loss"]
        if targets.final is not None:
            own = targets.final[rows.start - targets.first : rows.stop - targets.first]
            student = found.final if spec.mim_tap == "post_norm" else found.pre_norm
            parts["mim_loss"] = self._mim(student, own, token_mask, total)
            loss = loss + spec.mim_weight * parts["mim_loss"]
        if targets.keys is not None:
            assert found.queries is not None
            parts |= self._contrastive(found.queries.unflatten(0, (count, views)), targets.keys, first, total)
            factor = 0.5 if spec.inter_step and spec.inter_view else spec.single_contrastive_scale
            loss = loss + spec.contrastive_weight * factor * sum(
                parts[name] for name in ("inter_step_loss", "inter_view_loss") if name in parts
            )
        return {"loss": loss, **parts}

    def _mim(self, student: Tensor, teacher: Tensor, token_mask: Tensor | None, total: int) -> Tensor:
        spec, (_, views, length, _) = self.spec, teacher.shape
        masked_only = spec.mim_positions == "masked"
        each = num_masked(spec.mask_ratio, length) if masked_only else length
        return mim_loss(student.view_as(teacher), teacher, spec.mim_distance, token_mask if masked_only else None) / (
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

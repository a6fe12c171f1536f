"""The contrastive losses between positions (Eq. 6 of ST-AR, arXiv:2509.15185) and between views (Eq. 7): two losses of one term.

They share the drawn positions, the projector, the teacher's features and one weight (beta of Eq. 8).

Shapes: B images of a pass, V images of the global batch, S student and M teacher views, T positions, K drawn ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star.objectives.backbone import Backbone, Features, StudentOutput
from star.objectives.batch import Batch
from star.objectives.precision import at_least_fp32, autocast_if
from star.objectives.projector import projector
from star.objectives.term import TeacherReads, Term
from star.pipeline.config.selfguided import SelfGuidedSpec


class Contrastive(Term):
    """L_step and L_view: projected student features against the teacher's features of the global batch.

    Both are taken at the first K of the step's positions. The teacher's features need no gradient, so they are computed
    first, for all images of all ranks; student passes of any size are then compared with all of them.

    Args:
        layer: 1-based layer whose output is contrasted.
    """

    name = "contrastive"
    agrees_with = frozenset({"order"})
    gathers = True

    def __init__(self, spec: SelfGuidedSpec, layer: int) -> None:
        self.spec = spec
        self.layers = (layer,)
        self.teacher = TeacherReads(layers=(layer,), all_views=True)
        self.averages_head = spec.teacher_projector
        self.loss_names = tuple(f"{name}_loss" for name in ("inter_step", "inter_view") if getattr(spec, name))

    def check(self, images: int, views: int, length: int) -> None:
        if self.spec.inter_view and views < 2:
            raise ValueError(
                f"codes hold {views} view of each image, and the inter-view loss compares two or more; give them, or inter_view=False"
            )
        if images < 2:
            raise ValueError(f"codes hold {images} image, and the contrastive losses compare it with others; give more")
        if length < self.spec.num_positions:
            raise ValueError(
                f"codes have {length} positions, fewer than num_positions={self.spec.num_positions}; lower it"
            )

    def build(self, student: Backbone) -> nn.Module:
        """The student's projector f of section 3.3.2; with `teacher_projector` its moving average projects the teacher's features."""
        return projector(student.dim, student.dim, self.spec.projector_hidden, self.spec.projector_layers)

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        """Projected features (N, K, D); on all T positions the projector would cost 15% of a plain step."""
        assert self.head is not None
        found: Tensor = self.head(states.layer_features[self.layers[0]][:, batch.positions[: self.spec.num_positions]])
        return found

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor:
        """The teacher's features (images, M, K, D) at the drawn positions; with `teacher_projector` through the projector's average."""
        assert states is not None
        keys = states.layer_features[self.layers[0]][:, :, batch.positions[: self.spec.num_positions]]
        return keys if self.head_average is None else self.head_average(keys)

    def weight_at(self, progress: float) -> float:
        both = self.spec.inter_step and self.spec.inter_view
        return self.spec.contrastive_weight * (0.5 if both else self.spec.single_contrastive_scale)

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        assert targets is not None
        spec, total = self.spec, len(batch.codes)
        queries = out.read[self.name].unflatten(0, (-1, batch.student_views))
        views, (_, all_views, positions, _) = queries.shape[1], targets.shape
        arguments = (queries, targets, rows.start, spec.temperature, spec.normalize, spec.contrastive_form)
        mean = spec.reduction == "mean"
        found = {}
        if spec.inter_step:
            count = views * positions * (positions - 1) if mean else 1
            found["inter_step_loss"] = inter_step_loss(*arguments) / (total * count)
        if spec.inter_view:
            count = views * (all_views - 1) * positions if mean else 1
            found["inter_view_loss"] = inter_view_loss(*arguments) / (total * count)
        return found


def inter_step_loss(
    queries: Tensor, keys: Tensor, first: int, temperature: float, normalize: bool, form: str
) -> Tensor:
    """Eq. 6: anchor (b, m, i) against the teacher at (v, m, j), over all i != j; summed over anchors and pairs, not yet over B.

    The paper prints no norm, temperature or log; `normalize=False`, `temperature=1` and `form="ratio"` give its form.

    Args:
        queries: (B, S, K, D) projected student features.
        keys: (V, M, K, D) teacher features of the global batch, M at least S.
        first: index in the global batch of the first image of `queries`.
        temperature: above 0; divides the similarities.
        normalize: scale both sides to unit norm before the dot product.
        form: `infonce`, minus the log of the ratio; `ratio`, minus the ratio as printed.

    Returns:
        () in float32, or in float64 if a side has it.

    Raises:
        ValueError: `form` is neither.
    """
    queries, keys = _sides(queries, keys, normalize)
    similarity = _dots("bmid,vmjd->bmijv", queries, keys[:, : queries.shape[1]]) / temperature
    own, other = _unequal(queries.shape[2], queries.shape[2], queries.device)
    return _against_batch(similarity[:, :, own, other], first, form).sum()


def inter_view_loss(
    queries: Tensor, keys: Tensor, first: int, temperature: float, normalize: bool, form: str
) -> Tensor:
    """Eq. 7: anchor (b, m, k) against the teacher at (v, n, k), m of S views and n of M, over all m != n; summed, ().

    Arguments are as in `inter_step_loss`.
    """
    queries, keys = _sides(queries, keys, normalize)
    similarity = _dots("bmkd,vnkd->bmnkv", queries, keys) / temperature
    own, other = _unequal(queries.shape[1], keys.shape[1], queries.device)
    return _against_batch(similarity[:, own, other], first, form).sum()


def _unequal(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All index pairs (i, j) with i < rows, j < columns, i != j; a boolean mask would synchronise with the GPU."""
    pair = torch.arange(rows * (columns - 1), device=device)
    own, other = pair // (columns - 1), pair % (columns - 1)
    return own, other + (other >= own)


def _dots(equation: str, queries: Tensor, keys: Tensor) -> Tensor:
    """Dot products in the operands' precision: autocast would round to bfloat16 (three digits) before the softmax."""
    with autocast_if(queries, False):
        return torch.einsum(equation, queries, keys)


def _sides(queries: Tensor, keys: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    queries, keys = at_least_fp32(queries), at_least_fp32(keys)
    return (F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)) if normalize else (queries, keys)


def _against_batch(similarity: Tensor, first: int, form: str) -> Tensor:
    """(B, ..., V) -> (B, ...): the loss of each image's own entry against those of all V images.

    The paper prints -exp/sum exp (`ratio`); contrastive learning usually minimises -log(exp/sum exp) (`infonce`).
    """
    if form not in ("infonce", "ratio"):
        raise ValueError(f"form {form!r} is not legal; give infonce or ratio")
    own = torch.arange(first, first + len(similarity), device=similarity.device).view(-1, *[1] * (similarity.ndim - 1))
    log_ratio = similarity.gather(-1, own.expand(*similarity.shape[:-1], 1)).squeeze(-1) - similarity.logsumexp(-1)
    return -log_ratio if form == "infonce" else -log_ratio.exp()

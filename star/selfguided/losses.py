"""The three self-supervised losses, each a pure function that returns a sum; the objective divides by the global count.

Shapes: B images here, V images of the whole global batch, S student and M teacher views, T positions, K drawn ones.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor


def mim_loss(student: Tensor, teacher: Tensor, distance: str = "cosine", token_mask: Tensor | None = None) -> Tensor:
    """Eq. 4: distance between hidden states (..., T, D), summed over positions.

    Args:
        distance: `cosine` (1 - cos), `l2` (mean square over channels) or `smooth_l1` (mean over channels).
        hidden: (..., T) bool; the sum runs over these only. All positions when None.
    """
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    if distance == "cosine":
        each = 1 - F.cosine_similarity(student, teacher, dim=-1)
    elif distance == "l2":
        each = (student - teacher).square().mean(-1)
    else:
        each = F.smooth_l1_loss(student, teacher, reduction="none").mean(-1)
    return (each if token_mask is None else each[token_mask]).sum()


def inter_step_loss(
    queries: Tensor, keys: Tensor, first: int, temperature: float, normalize: bool, form: str
) -> Tensor:
    """Eq. 6: anchor (b, m, i) against the teacher at (v, m, j), over all i != j; summed over anchors and pairs.

    Args:
        queries: (B, S, K, D) projected student features.
        keys: (V, M, K, D) teacher features of the global batch.
        first: index in the global batch of the first image of `queries`.
    """
    queries, keys = _sides(queries, keys, normalize)
    similarity = _dots("bmid,vmjd->bmijv", queries, keys[:, : queries.shape[1]]) / temperature
    own, other = _unequal(queries.shape[2], queries.shape[2], queries.device)
    return _against_batch(similarity[:, :, own, other], first, form).sum()


def inter_view_loss(
    queries: Tensor, keys: Tensor, first: int, temperature: float, normalize: bool, form: str
) -> Tensor:
    """Eq. 7: anchor (b, m, k) against the teacher at (v, n, k), over all m != n; arguments as in `inter_step_loss`."""
    queries, keys = _sides(queries, keys, normalize)
    similarity = _dots("bmkd,vnkd->bmnkv", queries, keys) / temperature
    own, other = _unequal(queries.shape[1], keys.shape[1], queries.device)
    return _against_batch(similarity[:, own, other], first, form).sum()


def _unequal(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All index pairs (i, j) with i < rows, j < columns, i != j; a boolean mask would make a GPU wait for its count."""
    pair = torch.arange(rows * (columns - 1), device=device)
    own, other = pair // (columns - 1), pair % (columns - 1)
    return own, other + (other >= own)


def _dots(equation: str, queries: Tensor, keys: Tensor) -> Tensor:
    """Dot products in the operands' own precision: autocast would round them to bfloat16, three digits, before the softmax."""
    kind = queries.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return torch.einsum(equation, queries, keys)


def _sides(queries: Tensor, keys: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    queries, keys = at_least_fp32(queries), at_least_fp32(keys)
    return (F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)) if normalize else (queries, keys)


def at_least_fp32(x: Tensor) -> Tensor:
    """x in at least float32: what a loss is computed in, also under autocast."""
    return x if x.dtype == torch.float64 else x.float()


def _against_batch(similarity: Tensor, first: int, form: str) -> Tensor:
    """(B, ..., V) -> (B, ...): image b's own entry against all images.

    The paper prints -exp/sum exp (`ratio`); its log is what contrastive learning minimises (`infonce`).
    """
    own = torch.arange(first, first + len(similarity), device=similarity.device).view(-1, *[1] * (similarity.ndim - 1))
    log_ratio = similarity.gather(-1, own.expand(*similarity.shape[:-1], 1)).squeeze(-1) - similarity.logsumexp(-1)
    return -log_ratio if form == "infonce" else -log_ratio.exp()

"""The section `model` of a run: the transformer that `train` trains, its size and what a pass of it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


def parameters(run: StarRun) -> int:
    """Number of parameters of the transformer."""
    model, codes = run.model, run.tokenizer.codebook_size
    block = 4 * model.dim**2 + 3 * model.dim * model.ffn_hidden + 2 * model.dim
    return model.n_layer * block + model.dim * (2 * codes + run.data.num_classes + 1 + 1)


def forward_flops(run: StarRun, layers: int | None = None, head: bool = True) -> float:
    """FLOPs of one sequence's forward pass through `layers` blocks (None: all) and, with `head`, the head.

    A multiply-add counts as two. Causal attention counts only the pairs that it does not mask.
    """
    model, length = run.model, run.sequence_length
    block = 2 * (4 * model.dim**2 + 3 * model.dim * model.ffn_hidden) * length + 2 * model.dim * length * (length + 1)
    return (layers or model.n_layer) * block + (2 * model.dim * run.tokenizer.codebook_size * length if head else 0)

"""What passes of the transformer cost, for terms that make them longer or shorter; a multiply-add counts as two."""

from __future__ import annotations

from star.objectives import Setting


def block_flops(setting: Setting, tokens: float, pairs: float) -> float:
    """FLOPs of a block's forward pass on so many tokens, which attend to so many pairs in all."""
    return 2 * (4 * setting.dim**2 + 3 * setting.dim * setting.ffn_hidden) * tokens + 4 * setting.dim * pairs


def head_flops(setting: Setting, outputs: float) -> float:
    """FLOPs of the head's forward pass for so many outputs."""
    return 2 * setting.dim * setting.codebook_size * outputs


def causal(tokens: float) -> float:
    """Pairs of a causal sequence: every token attends to itself and those before."""
    return tokens * (tokens + 1) / 2


def step_flops(setting: Setting, tokens: float, pairs: float) -> float:
    """FLOPs of a step's forward and backward pass of a sequence through all blocks and the head."""
    return 3 * (setting.n_layer * block_flops(setting, tokens, pairs) + head_flops(setting, tokens))

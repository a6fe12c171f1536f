"""Which code positions a sequence may not look at (Eq. 3), and the attention mask that says so."""

from __future__ import annotations

import torch
from torch import Tensor


def hidden_count(mask_ratio: float, length: int) -> int:
    """How many of the T - 1 code inputs of a sequence are hidden: the same number in every one."""
    return round(mask_ratio * (length - 1))


def draw_hidden(sequences: tuple[int, ...], length: int, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """Hidden input positions, (*sequences, T) bool, True is hidden; uniform without replacement.

    Input position 0 is the condition. It is never hidden, so no query is left without a key.
    """
    order = torch.rand(*sequences, length - 1, generator=generator).argsort(-1).argsort(-1)
    hidden = order < hidden_count(mask_ratio, length)
    return torch.cat([torch.zeros(*sequences, 1, dtype=torch.bool), hidden], dim=-1)


def attend_mask(hidden: Tensor, mask_self: bool) -> Tensor:
    """(N, T) hidden -> (N, 1, T, T) bool, True where a query (row) sees a key (column): causal and not hidden."""
    length = hidden.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
    attend = causal & ~hidden[:, None, None, :]
    return attend if mask_self else attend | torch.eye(length, dtype=torch.bool, device=hidden.device)

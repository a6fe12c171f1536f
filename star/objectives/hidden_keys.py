"""Hidden keys (Eq. 3 of ST-AR, arXiv:2509.15185): code positions that the student may not attend to."""

from __future__ import annotations

import torch
from torch import Tensor

from star.objectives.batch import Batch
from star.objectives.term import Term
from star.pipeline.config.selfguided import SelfGuidedSpec, num_masked


class HiddenKeys(Term):
    """Hides a share of the code positions of each student sequence, a new draw in each step; has no loss of its own."""

    name = "hidden_keys"
    agrees_with = frozenset({"order"})
    changes = frozenset({"attend"})
    own_generator = False

    def __init__(self, spec: SelfGuidedSpec) -> None:
        self.spec = spec

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        """Set `batch.token_mask` (B, S, T) to newly drawn hidden positions."""
        count, _, length = batch.codes.shape
        batch.token_mask = sample_token_mask((count, batch.student_views), length, self.spec.mask_ratio, generator)

    def attend(self, batch: Batch, rows: slice) -> Tensor:
        assert batch.token_mask is not None
        return attend_mask(batch.token_mask[rows].flatten(0, 1), self.spec.mask_self)


def sample_token_mask(sequences: tuple[int, ...], length: int, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """Hidden input positions, (*sequences, T) bool, True is hidden; drawn uniformly without replacement.

    Input position 0 is the condition. It is never hidden, so no query is left without a key.
    """
    order = torch.rand(*sequences, length - 1, generator=generator).argsort(-1).argsort(-1)
    token_mask = order < num_masked(mask_ratio, length)
    return torch.cat([torch.zeros(*sequences, 1, dtype=torch.bool), token_mask], dim=-1)


def attend_mask(token_mask: Tensor, mask_self: bool) -> Tensor:
    """(N, T) hidden -> (N, 1, T, T) bool, True where a query (row) sees a key (column): causal and not hidden.

    Unless `mask_self`, a query always sees itself.
    """
    length = token_mask.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=token_mask.device).tril()
    attend = causal & ~token_mask[:, None, None, :]
    return attend if mask_self else attend | torch.eye(length, dtype=torch.bool, device=token_mask.device)

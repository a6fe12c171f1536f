"""What a transformer must offer to be trained by the objective, and the module that one training pass runs through."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

from torch import Tensor, nn


class Features(Protocol):
    """Hidden states of one pass, (N, T, D) each."""

    layer_features: Tensor | None
    pre_norm: Tensor
    final: Tensor


class Backbone(Protocol):
    """A next-code transformer, of whatever make; an nn.Module that has these. `star.model.gpt.GPT` is one."""

    dim: int
    """D: channels of the hidden states."""
    output: nn.Module
    """The head: final hidden states (N, T, D) -> logits (N, T, V)."""

    def features(
        self, codes: Tensor, labels: Tensor, attend: Tensor | None = None, feature_layer: int | None = None
    ) -> Features:
        """Hidden states for codes (N, T) and labels (N,): `layer_features` after the 1-based layer `feature_layer`, `pre_norm` after the
        last one, `final` as the head reads them. Position p must not see code p or later ones; `attend`
        (N, 1, T, T) bool says where a query (row) sees a key (column), plain causal when None.

        A backbone whose batches carry `seeds` gets them as `seeds`, (N,) int32, for its dropout.
        """
        ...

    def hidden_at(self, codes: Tensor, labels: Tensor, layer: int) -> Tensor:
        """(N, T, D) after a 1-based layer; the layers above need not be computed."""
        ...


class StudentOutput(NamedTuple):
    """What the losses read of the student."""

    logits: Tensor
    """(N, T, V)."""
    final: Tensor
    """(N, T, D), as the head reads them."""
    pre_norm: Tensor
    """(N, T, D), after the last layer."""
    queries: Tensor | None
    """(N, K, D) projected features at the drawn positions, where a contrastive loss is on."""


class StudentWithProjector(nn.Module):
    """Student and projector: all that the optimizer trains, in one forward, so that it can be wrapped or sharded as one."""

    def __init__(self, student: Backbone, projector: nn.Module | None) -> None:
        super().__init__()
        self.student = cast(Any, student)
        self.projector = projector

    def forward(
        self,
        codes: Tensor,
        labels: Tensor,
        attend: Tensor | None,
        feature_layer: int | None,
        positions: Tensor,
        seeds: Tensor | None,
    ) -> StudentOutput:
        """N sequences at once; arguments as in `Backbone.features`, `positions` (K,)."""
        own = {} if seeds is None else {"seeds": seeds}
        features = self.student.features(codes, labels, attend, feature_layer, **own)
        queries = None
        if self.projector is not None:
            # only the K drawn positions pass the projector: on all T it would cost 15% of a plain step
            queries = self.projector(features.layer_features[:, positions])
        return StudentOutput(self.student.output(features.final), features.final, features.pre_norm, queries)

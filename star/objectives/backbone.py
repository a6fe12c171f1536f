"""What a transformer must offer to be trained by the objective, and the module that one training pass runs through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from torch import Tensor, nn

from star.objectives.batch import Batch

if TYPE_CHECKING:
    from star.objectives.term import Term


class Features(Protocol):
    """Hidden states of one pass, (N, T, D) each."""

    layer_features: Mapping[int, Tensor]
    pre_norm: Tensor
    final: Tensor


class Backbone(Protocol):
    """A next-code transformer, of whatever make; an nn.Module that has these. `star.model.gpt.GPT` is one."""

    dim: int
    """D: channels of the hidden states."""
    output: nn.Module
    """The head: final hidden states (N, T, D) -> logits (N, T, V)."""

    def features(
        self, codes: Tensor, labels: Tensor, attend: Tensor | None = None, layers: Sequence[int] = ()
    ) -> Features:
        """Hidden states for codes (N, T) and labels (N,): `layer_features` after each of the 1-based `layers`, `pre_norm` after the
        last one, `final` as the head reads them. Position p must not see code p or later ones; `attend`
        (N, 1, T, T) bool says where a query (row) sees a key (column), plain causal when None.

        A backbone whose batches carry `seeds` gets them as `seeds`, (N,) int32, for its dropout.
        """
        ...

    def hidden_at(self, codes: Tensor, labels: Tensor, layer: int) -> Tensor:
        """(N, T, D) after a 1-based layer; the layers above need not be computed."""
        ...


@dataclass
class Pass:
    """What the student sees in one forward pass: N sequences."""

    codes: Tensor
    """(N, T) long: what it is fed; the last of them it never sees."""
    labels: Tensor
    """(N,) long."""
    attend: Tensor | None = None
    """(N, 1, T, T) bool; plain causal when None."""
    seeds: Tensor | None = None
    """(N,) int32, of each sequence's dropout."""
    images: tuple[Batch, slice] | None = None
    """The batch, and its images that the sequences are views of; None when only logits are wanted."""


class StudentOutput(NamedTuple):
    """What the losses read of the student."""

    logits: Tensor
    """(N, T, V)."""
    read: dict[str, Tensor]
    """Term -> what it read of the hidden states."""


class StudentWithHeads(nn.Module):
    """Student and the terms' own modules: all that the optimizer trains, in one forward, so that it can be wrapped or sharded as one."""

    def __init__(self, student: Backbone, terms: Sequence[Term]) -> None:
        super().__init__()
        self.student = cast(Any, student)
        self.terms = terms
        self.layers = sorted({layer for term in terms for layer in term.layers})
        self.heads = nn.ModuleDict({term.name: term.head for term in terms if term.head is not None})

    def forward(self, one: Pass) -> StudentOutput:
        """Logits, and what each term reads of the hidden states."""
        own = {} if one.seeds is None else {"seeds": one.seeds}
        states = self.student.features(one.codes, one.labels, one.attend, self.layers if one.images else (), **own)
        found: dict[str, Tensor | None] = {}
        if one.images is not None:
            for term in self.terms:
                with term.told("read"):
                    found[term.name] = term.read(states, *one.images)
        read = {name: value for name, value in found.items() if value is not None}
        return StudentOutput(self.student.output(states.final), read)

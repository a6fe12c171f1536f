"""The interface that a transformer needs to be trained by the objective, and the module that runs one training pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from star.objectives.batch import Batch
from star.objectives.precision import autocast_if, autocast_of

if TYPE_CHECKING:
    from star.objectives.term import Term


class Features(Protocol):
    """Hidden states of one pass, (N, T, D) each; (N, t, D) with the t places of `Arranged` where a term changes the `sequence`."""

    layer_features: Mapping[int, Tensor]
    pre_norm: Tensor
    final: Tensor


class Backbone(Protocol):
    """A next-code transformer: any nn.Module with these members, such as `star.model.gpt.GPT`.

    Terms that change the `order` or `sequence` also need its members `embed`, `rope`, `run` and `through`.
    """

    dim: int
    """D: channels of the hidden states."""
    output: nn.Module
    """The head: final hidden states (N, T, D) -> logits (N, T, V)."""

    def features(
        self, codes: Tensor, labels: Tensor, attend: Tensor | None = None, layers: Sequence[int] = ()
    ) -> Features:
        """Hidden states for codes (N, T) and labels (N,).

        `layer_features` are the outputs of the 1-based `layers`, `pre_norm` is that of the last layer, and `final` is
        what the head reads. Position p must not see code p or later ones. `attend` (N, 1, T, T) bool is True where a
        query (row) sees a key (column); None means plain causal attention.

        If the batches have dropout seeds, a backbone gets them as the keyword `seeds`, (N,) int32.
        """
        ...

    def hidden_at(self, codes: Tensor, labels: Tensor, layer: int) -> Tensor:
        """The output (N, T, D) of a 1-based layer; the layers above need not be computed."""
        ...


@dataclass
class Pass:
    """The student's input in one forward pass of N sequences."""

    codes: Tensor
    """(N, T) long: the input codes, of which the last is never seen."""
    labels: Tensor
    """(N,) long: the class labels."""
    attend: Tensor | None = None
    """(N, 1, T, T) bool: True where a query (row) sees a key (column); plain causal when None."""
    seeds: Tensor | None = None
    """(N,) int32: the dropout seed of each sequence."""
    images: tuple[Batch, slice] | None = None
    """The batch, and the slice of its images that the sequences are views of; None if only logits are needed."""


@dataclass
class Arranged:
    """What a transformer runs on in place of the condition and the codes in raster order."""

    embedded: Tensor
    """(N, t, D): the input of the first layer."""
    rope: Tensor
    """(2, t, d), or (2, N, 1, t, d) if sequences differ: the rotation of each place, as `star.model.gpt.rope_table` has it."""
    attend: Tensor | None = None
    """(N, 1, t, t) bool: True where a query (row) sees a key (column); None: as the pass has it."""


class StudentOutput(NamedTuple):
    """The student's output that the losses use."""

    final: Tensor
    """(N, T, D): what the head reads."""
    head: nn.Module
    """The student's head."""
    read: dict[str, Tensor]
    """Name of a term -> what its `read` returned."""
    made: dict[str, Tensor]
    """The logits, once something has asked for them."""
    mode: tuple[bool, bool, torch.dtype | None]
    """Of the forward pass: gradients enabled, autocast enabled, autocast's dtype. `logits`, made later, are made with the same."""

    @property
    def logits(self) -> Tensor:
        """(N, T, V): those at position p predict code p. They are made when a term first asks for them."""
        if "logits" not in self.made:
            recorded, enabled, kind = self.mode
            with torch.set_grad_enabled(recorded), autocast_if(self.final, enabled, kind):
                self.made["logits"] = self.head(self.final)
        return self.made["logits"]


def states_of(model: Any, one: Pass, terms: Sequence[Term], layers: Sequence[int], averaged: bool = False) -> Features:
    """Hidden states of a pass, arranged as a term has it if there is one; raster order if only logits are needed.

    Args:
        layers: 1-based layers whose output is kept.
        averaged: whether `model` is the moving average, which a term's own modules follow.
    """
    own = {} if one.seeds is None else {"seeds": one.seeds}
    arranging = [term for term in terms if term.changes & {"order", "sequence"}]

    def states(model: Any) -> Features:
        for term in arranging if one.images else ():
            with term.told("arrange"):
                found = term.arrange(model, one, term.head_average if averaged else term.head)
            if found is not None:
                attend = one.attend if found.attend is None else found.attend
                return cast(Features, model.run(found.embedded, found.rope, attend, layers, **own))
        return cast(Features, model.features(one.codes, one.labels, one.attend, layers if one.images else (), **own))

    return cast(Features, model.through(states)) if arranging and one.images else states(model)


class StudentWithHeads(nn.Module):
    """The student and the terms' heads: all that the optimizer trains, in one module that can be wrapped or sharded."""

    def __init__(self, student: Backbone, terms: Sequence[Term]) -> None:
        super().__init__()
        self.student = cast(Any, student)
        self.terms = terms
        self.layers = sorted({layer for term in terms for layer in term.layers})
        self.heads = nn.ModuleDict({term.name: term.head for term in terms if term.head is not None})

    def forward(self, one: Pass) -> StudentOutput:
        """What each term reads of the hidden states; the logits at once if there are no terms."""
        states = states_of(self.student, one, self.terms, self.layers)
        found: dict[str, Tensor | None] = {}
        if one.images is not None:
            for term in self.terms:
                with term.told("read"):
                    found[term.name] = term.read(states, *one.images)
        read = {name: value for name, value in found.items() if value is not None}
        mode = (torch.is_grad_enabled(), *autocast_of(states.final))
        out = StudentOutput(states.final, self.student.output, read, {}, mode)
        if one.images is None:
            out.made["logits"] = out.head(out.final)
        return out

"""The training objective: the weighted sum of its terms. Losses are weighted here and nowhere else.

Targets are computed first, for the whole global batch, without gradient. The student then runs in micro-batches against
them, so the loss depends neither on how the batch is split nor on how many ranks share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from star.objectives.backbone import Backbone, Features, Pass, StudentOutput, StudentWithHeads, states_of
from star.objectives.batch import Batch
from star.objectives.teacher import EMATeacher
from star.objectives.term import Term


@dataclass
class Targets:
    """What the student is compared with, by term, without gradient."""

    own: dict[str, Tensor] = field(default_factory=dict)
    """Name of a term -> its targets for this rank's images, or for the global batch if the term gathers."""
    first: int = 0
    """Index in the global batch of the first of this rank's images."""


@dataclass
class TeacherStates:
    """The teacher's hidden states, (images, views, T, D) each."""

    layer_features: Mapping[int, Tensor]
    pre_norm: Tensor
    final: Tensor


class Objective(nn.Module):
    """The sum of weight x loss over terms, and the EMA teacher if a term reads one.

    Args:
        student: the model being trained; it is trained in place.
        terms: the terms, summed in this order.
        ema_decay: decay of the teacher's moving average.
        ema_ramp: use the decay min(ema_decay, (1 + t) / (10 + t)) at step t.

    Raises:
        ValueError: two terms have the same name or loss name, or change the same part of the student's pass.
    """

    def __init__(
        self, student: Backbone, terms: Sequence[Term], ema_decay: float = 0.9999, ema_ramp: bool = False
    ) -> None:
        super().__init__()
        check_terms(terms)
        self.terms = tuple(terms)
        for term in terms:
            term.head = term.build(student)
        self.learner = StudentWithHeads(student, self.terms)
        wanted = any(term.teacher is not None for term in terms)
        self.teacher = EMATeacher(student, ema_decay, ema_ramp) if wanted else None
        averaged = {term.name: term.head for term in terms if term.averages_head and term.head is not None}
        self.head_averages = nn.ModuleDict(
            {name: EMATeacher(head, ema_decay, ema_ramp) for name, head in averaged.items()}
        )
        for term in terms:
            average = cast(EMATeacher, self.head_averages[term.name]) if term.name in averaged else None
            term.head_average = None if average is None else average.copy

    @property
    def student(self) -> Backbone:
        """The model being trained."""
        return self.learner.student

    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters of the student and of the terms' own modules: those that the optimizer updates."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def update_teacher(self, step: int) -> None:
        """Update the moving averages of the student and of heads after optimizer step `step` (from 0)."""
        if self.teacher is not None:
            self.teacher.update(self.student, step)
        for name, average in self.head_averages.items():
            cast(EMATeacher, average).update(self.learner.heads[name], step)

    @torch.no_grad()
    def targets(
        self,
        batch: Batch,
        rows: slice | None = None,
        micro: int | None = None,
        gather: Callable[[Tensor], Tensor] = lambda own: own,
    ) -> Targets:
        """Compute each term's targets. The teacher sees the clean codes and runs only the layers that a term needs.

        Args:
            rows: this rank's images; all when None.
            micro: images per forward pass.
            gather: a tensor (R, ...) of this rank's images -> those of all ranks in order, (B, ...).
        """
        rows = rows or slice(0, len(batch.codes))
        micro = micro or rows.stop - rows.start
        parts: dict[str, list[Tensor]] = {}
        for first in range(rows.start, rows.stop, micro):
            some = slice(first, min(first + micro, rows.stop))
            states = self._teacher_states(batch, some)
            for term in self.terms:
                with term.told("targets"):
                    found = term.targets(_read_by(term, states, batch), batch, some)
                if found is not None:
                    parts.setdefault(term.name, []).append(found)
        whole = {name: torch.cat(found) for name, found in parts.items()}
        gathered = {term.name for term in self.terms if term.gathers}
        return Targets({name: gather(one) if name in gathered else one for name, one in whole.items()}, rows.start)

    def _teacher_states(self, batch: Batch, rows: slice) -> Features | None:
        reads = [term.teacher for term in self.terms if term.teacher is not None]
        if self.teacher is None or not reads:
            return None
        layers = sorted({layer for read in reads for layer in read.layers})
        if not layers and not any(read.final for read in reads):
            return None  # its average is kept, and nobody reads a state of it
        views = batch.codes.shape[1] if any(read.all_views for read in reads) else batch.student_views
        sequences, labels = batch.codes[rows, :views].flatten(0, 1), batch.labels[rows, :views].flatten()
        arranged = any("order" in term.changes for term in self.terms)
        if arranged or any(read.final for read in reads) or len(layers) != 1:
            one = Pass(sequences, labels, images=(batch, rows))
            found = states_of(self.teacher.copy, one, self.terms, layers, averaged=True)
        else:
            at = self.teacher.copy.hidden_at(sequences, labels, layers[0])
            found = TeacherStates({layers[0]: at}, at[:, :0], at[:, :0])  # no term reads the last states

        def apart(x: Tensor) -> Tensor:
            return x.unflatten(0, (-1, views))

        taken = {layer: apart(x) for layer, x in found.layer_features.items()}
        return TeacherStates(taken, apart(found.pre_norm), apart(found.final))

    def losses(
        self,
        batch: Batch,
        targets: Targets,
        rows: slice | None = None,
        learner: Callable[[Pass], StudentOutput] | None = None,
    ) -> dict[str, Tensor]:
        """`loss` and each term's `loss_names` for images `rows`, as their share of the global batch's values.

        Summed over all micro-batches and ranks, they equal the full-batch values.

        Args:
            rows: images of one forward pass; all when None.
            learner: the wrapper of `self.learner` (DistributedDataParallel), if there is one.

        Raises:
            ValueError: a term has nothing to compare in this batch, or does not return the losses that it declares.
        """
        for term in self.terms:
            term.check(*batch.codes.shape)
        rows = rows or slice(0, len(batch.codes))
        out = (learner or self.learner)(self._pass(batch, rows))
        parts: dict[str, Tensor] = {}
        total: Any = 0
        own = slice(rows.start - targets.first, rows.stop - targets.first)
        for term in self.terms:
            compared = targets.own.get(term.name)
            if compared is not None and not term.gathers:
                compared = compared[own]
            with term.told("loss"):
                found = term.loss(out, compared, batch, rows)
            if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
                raise ValueError(
                    f"{term.name}: loss gave {found!r}; give a tensor for each of {sorted(term.loss_names)}, by name"
                )
            idle = bool(found) and torch.is_grad_enabled() and not any(value.requires_grad for value in found.values())
            if idle and any(
                bool((value != 0).any()) for value in found.values()
            ):  # 0 is what there is nothing to learn from
                raise ValueError(
                    f"{term.name}: its loss has no gradient, so it trains nothing; compute it from `out`, without detach"
                )
            if set(found) != set(term.loss_names):
                raise ValueError(
                    f"{term.name}: loss gave {sorted(found)}, and loss_names are {sorted(term.loss_names)}"
                )
            for name, value in found.items():
                if value.ndim:
                    raise ValueError(
                        f"{term.name}: loss gave {name} of shape {tuple(value.shape)}; give one number: its sum"
                    )
            parts |= found
            total = total + term.weight_at(batch.progress) * sum(found.values())
        return {"loss": total} | parts

    def _pass(self, batch: Batch, rows: slice) -> Pass:
        codes = batch.codes[:, : batch.student_views] if batch.inputs is None else batch.inputs
        masks = [found for term in self.terms if (found := term.attend(batch, rows)) is not None]
        return Pass(
            codes[rows].flatten(0, 1),
            batch.labels[rows, : batch.student_views].flatten(),
            masks[0] if masks else None,
            None if batch.seeds is None else batch.seeds[rows].flatten(),
            (batch, rows),
        )


def _read_by(term: Term, states: Features | None, batch: Batch) -> Features | None:
    """The teacher's states of the views that a term reads; None if it reads none."""
    if states is None or term.teacher is None or term.teacher.all_views:
        return None if term.teacher is None else states
    own = slice(batch.student_views)
    layers = {layer: x[:, own] for layer, x in states.layer_features.items()}
    return TeacherStates(layers, states.pre_norm[:, own], states.final[:, own])


def disagreement(changes: str, what: str, reads: str) -> str:
    """Why two terms cannot be combined, of which one changes the `order` or `sequence` of what the student sees."""
    return f"{changes} changes the {what} of what the student sees, and {reads} goes by codes in raster order; leave one out"


def check_terms(terms: Sequence[Term]) -> None:
    """Check that terms can be combined.

    Raises:
        ValueError: two have the same name or loss name, or change the same part of the student's pass; or a loss is
            called `loss`.
    """
    for term in terms:
        if "loss" in term.loss_names:
            raise ValueError(f"{term.name}: a loss cannot be called loss, as the sum of all is")
    for what, each in (
        ("are both called {}", [[term.name] for term in terms]),
        ("both have a loss {}", [term.loss_names for term in terms]),
        ("both change the student's {}; leave one out", [term.changes for term in terms]),
    ):
        seen: dict[str, Term] = {}
        for term, names in zip(terms, each, strict=True):
            for name in names:
                if name in seen:
                    raise ValueError(f"{seen[name].name} and {term.name} {what.format(name)}")
                seen[name] = term
    for term in terms:
        for other in terms:
            for what in sorted(other.changes & {"order", "sequence"}):
                if term is not other and what not in term.agrees_with:
                    raise ValueError(disagreement(other.name, what, term.name))

"""The global batch of a step and all its random choices: a function of seed and step, the same on every rank."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from star.objectives.term import Term


@dataclass
class Batch:
    """The global batch of a step. Every rank draws all of it and works on its own rows."""

    codes: Tensor
    """(B, M, T) long: M distinct views of each image, the codes that are predicted."""
    labels: Tensor
    """(B, M) long, class dropout applied: student and teacher see the same."""
    positions: Tensor
    """(T,) long: all positions in random order, drawn per step; the same for all images, views, student and teacher."""
    student_views: int
    """S: the student sees the first S of the M views."""
    progress: float = 0.0
    """Steps done as a share of the schedule's, from 0 to below 1."""
    inputs: Tensor | None = None
    """(B, S, T) long: the student's input codes; None if they are those that it predicts."""
    predicted: Tensor | None = None
    """(B, S, t, k) long: the k codes that each of the first t outputs predicts; None: output p predicts code p."""
    token_mask: Tensor | None = None
    """(B, S, T) bool, True where a student's input position is hidden; None without masking."""
    seeds: Tensor | None = None
    """(B, S) int32: the dropout seed of each student sequence; None if the student has its own dropout, or none."""
    images: Tensor | None = None
    """(B,) long, on the CPU: the images' rows in the code store, for targets that are stored beside it."""
    views: Tensor | None = None
    """(B, M) long, on the CPU: the index of each view among its image's stored views."""
    drawn: dict[str, Tensor] = field(default_factory=dict)
    """Other draws of terms, each under the term's name."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device, but for `images` and `views`, which name what is on disk.

        Copies to a GPU are asynchronous, from pinned memory, and do not wait for it.
        """

        def moved(x: Tensor) -> Tensor:
            if device.type != "cuda" or x.device.type != "cpu":
                return x.to(device)
            return x.contiguous().pin_memory().to(device, non_blocking=True)

        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("images", "views")}
        tensors: dict[str, Any] = {name: moved(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **tensors, drawn={name: moved(value) for name, value in self.drawn.items()})


@dataclass(frozen=True)
class ClassDropout:
    """Replaces random labels by the null label, so that the model also learns without a condition."""

    null_label: int
    prob: float = 0.1
    per: str = "image"
    """`image`: all views of an image share the draw; `view`: each has its own."""

    def draw(self, labels: Tensor, views: int, generator: torch.Generator) -> Tensor:
        """Labels (B,) -> (B, views), each replaced by the null label with probability `prob`."""
        columns = views if self.per == "view" else 1
        dropped = torch.rand(len(labels), columns, generator=generator) < self.prob
        return torch.where(dropped, self.null_label, labels[:, None]).expand(len(labels), views)


def draw_batch(
    terms: Sequence[Term],
    codes: Tensor,
    labels: Tensor,
    student_views: int,
    class_dropout: ClassDropout,
    generator: torch.Generator,
    dropout: bool = False,
    progress: float = 0.0,
    images: Tensor | None = None,
    stored_views: Tensor | None = None,
) -> Batch:
    """Make a step's batch with its random choices: dropped labels, each term's draws, seeds of the student's dropout.

    Args:
        codes: (B, M, T) long, of at least as many views as the terms compare.
        labels: (B,) long, before class dropout.
        student_views: how many of the views the student sees, at most.
        generator: seeded by run and step, so that a resumed run and every rank draw the same.
        dropout: draw a seed for each student sequence's dropout.
        progress: steps done as a share of the schedule's.
        images, stored_views: (B,) and (B, M) long, the images and views of the store that the codes are from.

    Raises:
        ValueError: a term has nothing to compare (too few images, views or positions, or none hidden), or a bad draw.
    """
    count, views, length = codes.shape
    for term in terms:
        term.check(count, views, length)
    labels = class_dropout.draw(labels, views, generator)
    # drawn even if no term reads them, so that later draws do not change
    positions = torch.randperm(length, generator=generator)
    batch = Batch(codes, labels, positions, min(student_views, views), progress, images=images, views=stored_views)
    for term in terms:
        before = batch.inputs, batch.token_mask, batch.predicted
        with term.told("draw"):
            term.draw(batch, own_generator(generator, term.name) if term.own_generator else generator)
        _check_draw(term, batch, before)
    if dropout:  # drawn last, so that the other draws are the same without dropout
        batch.seeds = torch.randint(2**31 - 1, (count, batch.student_views), generator=generator).int()
    return batch


def _check_draw(term: Term, batch: Batch, before: tuple[Tensor | None, ...]) -> None:
    """Raise ValueError if a term changed more than it declares, or set a tensor of the wrong shape or type."""
    if batch.predicted is not before[2] and not term.changes & {"order", "sequence"}:
        raise ValueError(
            f'{term.name}: draw set batch.predicted; say so on the class: changes = frozenset({{"sequence"}})'
        )
    if (found := batch.predicted) is not None and found is not before[2]:
        sizes = (len(batch.codes), batch.student_views)
        if found.ndim != 4 or tuple(found.shape[:2]) != sizes or found.dtype != torch.long:
            raise ValueError(
                f"{term.name}: draw set batch.predicted of shape {tuple(found.shape)} and {found.dtype}; give {sizes} + (outputs, codes of "
                "each), long"
            )
    for name, now, then, declared in (
        ("inputs", batch.inputs, before[0], "inputs"),
        ("token_mask", batch.token_mask, before[1], "attend"),
    ):
        if now is then or now is None:
            continue
        if declared not in term.changes:
            raise ValueError(
                f"{term.name}: draw set batch.{name}; say so on the class: changes = frozenset({{{declared!r}}})"
            )
        wanted = (len(batch.codes), batch.student_views, batch.codes.shape[-1])
        kind = torch.long if name == "inputs" else torch.bool
        if tuple(now.shape) != wanted or now.dtype != kind:
            raise ValueError(
                f"{term.name}: draw set batch.{name} of shape {tuple(now.shape)} and {now.dtype}; give {wanted} {kind}"
            )


def own_generator(generator: torch.Generator, name: str) -> torch.Generator:
    """A new CPU generator for one term, from the seed that `generator` was given and the term's name.

    What was drawn from `generator` before does not matter: seed a new one for each step, or each step has the same own draws.
    """
    # torch's CPU generator uses only the lowest 32 bits of a seed
    return torch.Generator().manual_seed((generator.initial_seed() ^ zlib.crc32(name.encode())) & 0xFFFFFFFF)

"""The contract of a term. Whoever keeps it gets exact micro-batches, ranks and resumed runs.

A step calls, in this order:

1. `draw`, on the CPU, for the whole global batch: every random choice, from the generator that it is given and no other.
2. `targets`, without gradient, for the images of this rank: what the student is compared with.
3. `read`, in the student's forward pass: what the term needs of its hidden states, through the term's own modules.
4. `loss`, of the images of one pass: their sum, divided by the count of the global batch.

So losses of passes and ranks add up to the full batch's, whatever the passes are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from star.objectives.backbone import Backbone, Features, StudentOutput
from star.objectives.batch import Batch
from star.pipeline.config.setting import Setting
from star.spec.plugin_parts import TermConfig


@dataclass(frozen=True)
class TeacherReads:
    """What a term reads of the teacher, which sees the clean codes; it is run as deep, and on as many views, as is read."""

    layers: tuple[int, ...] = ()
    """1-based layers whose output is read."""
    final: bool = False
    """Whether the states after the last layer are read, before or after the final norm."""
    all_views: bool = False
    """Of all M views; of the student's S alone when False."""


class Term:
    """One addend of the objective: weight(progress) times the sum of its losses. A term without a loss changes the student's pass.

    One of a plugin is made with its config and the setting, and has that config's class as `config`.
    """

    config: ClassVar[type[TermConfig]]
    """What runs may say of it, under `terms.NAME`."""

    def __init__(self, fields: TermConfig | None = None, setting: Setting | None = None) -> None:
        """Keeps both. `layers`, and what `teacher` reads, may be set here; what every run has (`loss_names`, `changes`, `averages_head`,
        whether there is a `teacher`) is said on the class."""
        self.fields, self.setting = fields, setting

    name: ClassVar[str]
    """Under which its draws and its own weights are kept."""
    version: ClassVar[int | None] = None
    """Of a plugin's term, in its key in place of the file's content: raise it when results change."""
    weight: float = 1.0
    """Of its losses: of a plugin's term, what the run says."""
    loss_names: tuple[str, ...] = ()
    """Keys of what `loss` returns; they are recorded as `train/NAME`."""
    layers: tuple[int, ...] = ()
    """1-based layers of the student whose output `read` needs."""
    teacher: TeacherReads | None = None
    """What `targets` needs of the EMA teacher; None when it needs none."""
    gathers: bool = False
    """Whether `loss` needs the targets of the whole global batch and not only of its own images."""
    changes: frozenset[str] = frozenset()
    """What of the student's pass it changes: `inputs`, `attend`. Two terms that change the same are refused."""
    own_generator: bool = True
    """False: it draws from the step's generator, in its turn."""

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Whatever is raised in it says whose it is: there are several terms, and torch names none."""
        try:
            yield
        except Exception as error:
            error.add_note(f"in {what} of the term {self.name}")
            raise

    def check(self, images: int, views: int, length: int) -> None:
        """That a batch of this shape has something to average over; an empty mean is NaN.

        Raises:
            ValueError: with what is missing and which field wants it.
        """

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        """Put the random choices of a step into `batch.drawn`, `batch.inputs` or `batch.token_mask`."""

    def build(self, student: Backbone) -> nn.Module | None:
        """Modules of its own, from now on `head`: trained and clipped with the student, in no teacher, export or sample."""

    head: nn.Module | None = None
    """What `build` returned."""
    head_average: nn.Module | None = None
    """The moving average of `head`, where `averages_head`."""
    averages_head: bool = False
    """Whether an exponential moving average of `head` is kept, at the teacher's rate, for `targets`."""

    def attend(self, batch: Batch, rows: slice) -> Tensor | None:
        """(N, 1, T, T) bool, True where a query (row) sees a key (column), of the N student sequences of images `rows`."""
        return None

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor | None:
        """What `loss` needs of the student's hidden states of images `rows`; N = images x S sequences, image by image."""
        return None

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor | None:
        """What images `rows` are compared with, (images, ...); without gradient.

        Args:
            states: the teacher's, (images, views, T, D) each, as `teacher` asks for them; None where it asks for none.
        """
        return None

    def weight_at(self, progress: float) -> float:
        """The factor of its losses at a share of the schedule: `weight`, unless it changes."""
        return self.weight

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        """Each of `loss_names` for images `rows`: summed over them, divided by the count of the whole batch.

        Args:
            out: the student's logits (N, T, V), and what `read` returned as `out.read[self.name]`.
            targets: those of images `rows`, or of the global batch where `gathers`.
        """
        return {}

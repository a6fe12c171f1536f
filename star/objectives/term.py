"""The contract of a term. If terms keep it, results do not depend on micro-batches, ranks or resuming.

`prepare` is called once, before the first step. A step calls, in this order:

1. `draw`, on the CPU, for the whole global batch: every random choice, from the given generator and no other.
2. `targets`, without gradient, for the images of this rank: what the student is compared with.
3. `read`, in the student's forward pass: what the term needs of its hidden states, through the term's own modules.
4. `loss`, of the images of one pass: their sum, divided by the count of the global batch.

So the losses of passes and ranks add up to the full batch's, however it is split.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from star.objectives.backbone import Arranged, Backbone, Features, Pass, StudentOutput
from star.objectives.batch import Batch
from star.pipeline.config.setting import Setting
from star.plugin import Job
from star.spec.plugin_parts import TermConfig


@dataclass(frozen=True)
class TeacherReads:
    """What a term reads of the teacher, which sees the clean codes and runs only the layers and views that are read."""

    layers: tuple[int, ...] = ()
    """1-based layers whose output is read."""
    final: bool = False
    """Whether the states after the last layer are read, before or after the final norm."""
    all_views: bool = False
    """Whether all M views are read, or only the student's S."""


class Term:
    """A term of the objective: its weight times the sum of its losses. One without a loss changes the student's pass.

    A plugin's term is made with its config and the setting, and its class names the config's class as `config`.
    """

    config: ClassVar[type[TermConfig]]
    """The class of the fields that runs may set under `terms.NAME`."""

    def __init__(self, fields: TermConfig | None = None, setting: Setting | None = None) -> None:
        """Keep both arguments.

        A subclass may set `layers`, and what `teacher` reads, here. What is the same for every run (`after`, `loss_names`,
        `changes`, `averages_head`, whether there is a `teacher`) is set on the class.
        """
        self.fields, self.setting = fields, setting

    name: ClassVar[str]
    """The name under which the term's draws and weights are kept."""
    version: ClassVar[int | None] = None
    """For a plugin's term: replaces the file's content in its key; raise it when results change."""
    after: tuple[str, ...] = ()
    """Stages whose output it reads beside the codes, such as `tokenizer`; their keys are then in the key of the training."""
    weight: float = 1.0
    """The factor of the losses; for a plugin's term, set by the run."""
    loss_names: tuple[str, ...] = ()
    """Keys of what `loss` returns; they are recorded as `train/NAME`."""
    layers: tuple[int, ...] = ()
    """1-based layers of the student whose output `read` needs."""
    teacher: TeacherReads | None = None
    """What `targets` needs of the EMA teacher; None when it needs none."""
    gathers: bool = False
    """Whether `loss` needs the targets of the whole global batch and not only of its own images."""
    whole_batch: str = ""
    """Set if `loss` needs the whole batch in one forward pass: the remedy shown where a step is split, such as `give among: image`."""
    changes: frozenset[str] = frozenset()
    """The parts of the student's pass that it changes: `inputs`, `attend`, `order` (the same codes in another order) or
    `sequence` (other tokens). Two terms may not change the same part."""
    agrees_with: frozenset[str] = frozenset()
    """Changes by other terms (`order`, `sequence`) under which this term still works."""
    own_generator: bool = True
    """Whether it draws from a generator of its own; if False, from the step's, in the order of the terms."""

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """A context that adds this term's name to any error raised in it; torch's own errors name no term."""
        try:
            yield
        except SystemExit as error:
            raise RuntimeError(f"{what} of the term {self.name} called sys.exit({error.code!r})") from error
        except Exception as error:
            error.add_note(f"in {what} of the term {self.name}")
            raise

    def prepare(self, job: Job) -> None:
        """Keep what the term needs of the stages in `after`: `job.inputs`, `job.tokenizer()`; called before `build`.

        Raises:
            star.errors.DataError: what is there is not what the term needs.
        """

    def flops(self) -> float:
        """FLOPs that the term adds to a step for each student sequence, forward and backward; negative if it saves some.

        A multiply-add counts as two; a mean over the schedule. What the teacher costs is known from `teacher`.
        """
        return 0.0

    def check(self, images: int, views: int, length: int) -> None:
        """Check that a batch of this shape has something to average over; an empty mean is NaN.

        Raises:
            ValueError: it has not; the message says what is missing and which field needs it.
        """

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        """Put the random choices of a step, made on the CPU, into `batch.drawn`, `batch.inputs`, `batch.token_mask` or `batch.predicted`.

        All but `drawn` need the part in `changes`, and `draw_batch` raises ValueError without it.
        """

    def build(self, student: Backbone) -> nn.Module | None:
        """Make the term's own modules, kept as `head`.

        They are trained and clipped with the student, and are not in the teacher, exports or sampling.
        """

    head: nn.Module | None = None
    """What `build` returned."""
    head_average: nn.Module | None = None
    """The moving average of `head` if `averages_head`, else None."""
    averages_head: bool = False
    """Whether an exponential moving average of `head` is kept, at the teacher's rate, for `targets`."""

    def attend(self, batch: Batch, rows: slice) -> Tensor | None:
        """The attention mask of the N student sequences of images `rows`; None leaves the attention as it is.

        (N, 1, T, T) bool, True where a query (row) sees a key (column). A term that returns one has to have `attend` in `changes`:
        of several masks only the first is used.
        """
        return None

    def arrange(self, model: Any, one: Pass, head: nn.Module | None) -> Arranged | None:
        """What the model runs on, for a term that changes `order` or `sequence`; None leaves the condition and codes in raster order.

        Such a term's `draw` puts what each output predicts into `batch.predicted`. With `order` the teacher is arranged too.

        Args:
            model: the student or the teacher, with the members `embed`, `rope` and `run` of `star.model.gpt.GPT`.
            one: the pass; `one.images` is not None.
            head: the term's own modules, or for the teacher their average.
        """
        return None

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor | None:
        """What `loss` needs of the student's hidden states of images `rows`; N = images x S sequences, image by image."""
        return None

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor | None:
        """What images `rows` are compared with, (images, ...); without gradient.

        Args:
            states: the teacher's, (images, views, T, D) each, as `teacher` asks for them; None if it asks for none.
        """
        return None

    def weight_at(self, progress: float) -> float:
        """The factor of the losses when `progress` (0 to below 1) of the schedule is done; by default `weight`."""
        return self.weight

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        """Each of `loss_names` for images `rows`: summed over them, divided by the count of the whole batch.

        Args:
            out: the student's logits (N, T, V), and what `read` returned as `out.read[self.name]`.
            targets: those of images `rows`, or of the global batch if `gathers`.
        """
        return {}

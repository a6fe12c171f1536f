"""What a stage is: all that the platform asks of one, declared once. Light on purpose: the code of the stages imports torch.

Raise a stage's version when its result changes for the same spec; everything downstream then gets a new key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from star.spec.run_base import Run


@dataclass(frozen=True)
class Stage:
    """One content-addressed step: its key is made of name, version, sections and the keys of its inputs.

    What is heavy to import is named as `module:name`. What is asked of a run (`only_if`, `flops`, `disk`, `working_disk`,
    `unchanged`) gets it.
    """

    name: str
    version: int
    sections: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    """Stages whose output it reads."""
    only_if: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    """Of these, what not every run reads: name -> whether a run does. Of one that does not it is no part of the key."""
    config: Mapping[str, str] = field(default_factory=dict)
    """Sections that it brings to a run: name -> `module:class` of the model, whose defaults count where a run leaves it out."""
    check: str | None = None
    """`module:function` that raises FieldError where fields of a run do not go together."""
    run: str | None = None
    """`module:function` of its code, which a worker alone imports; it gets a `star.stages.context.Context`."""
    source: str | None = None
    """A name for what of the outside world it reads: files or folders, whose fingerprint is in its key."""
    given: tuple[str, ...] = ()
    """Fields of a run that name such files, as dotted paths: what is in them is part of a key, not where they lie."""
    look: str | None = None
    """`module:function` that finds it: of a run and a `star.spec.outside.Outside`, the fingerprint, or None where it reads nothing."""
    results: tuple[str, ...] = ()
    """The numbers it ends with, as columns of a table name them; `{extractor}` is filled from the run's spec."""
    curves: Mapping[str, str] = field(default_factory=dict)
    """Numbers it records step by step, and what a step is."""
    also_recorded: tuple[str, ...] = ()
    """Numbers it records step by step that no table asks for."""
    highlights: Mapping[str, str] = field(default_factory=dict)
    """Results that `status` and the board print beside a row, without what stands before a `/`, and what they are called there."""
    charts: tuple[str, ...] = ()
    """Curves that the page of a run draws, in this order."""
    files: tuple[str, ...] = ()
    """What of its output is attached to the tracked run: pictures, and data for figures."""
    drawn: Mapping[str, str] = field(default_factory=dict)
    """Kind of figure (`samples`, `attention`, `codes`) -> the file among `files` that it is made from."""
    weights: tuple[str, ...] = ()
    """Weights in its output that can be exported; the first is what is meant where none is named."""
    keeps: Literal["checkpoints", "shards"] | None = None
    """What an attempt that was stopped or killed leaves to the next one. The output of what keeps checkpoints is never removed."""
    width: Literal["process", "processes", "machines"] = "process"
    """What may share one job of it: nothing, several processes of a machine, or several machines."""
    gpu: bool = True
    """Whether it computes on a GPU where there is one."""
    flops: Callable[[Any], float] | None = None
    """Floating-point operations, a multiply-add counted as two; None: nobody knows."""
    disk: Callable[[Any], float] | None = None
    """Bytes that it leaves; None: little."""
    working_disk: Callable[[Any], float] | None = None
    """Bytes of what it keeps until it is done; None: little."""
    is_target: bool = True
    """Whether an experiment may reach it for itself; else it is there for others alone."""
    optional: tuple[str, ...] = ()
    """Sections that a run may lack: one that is not there, or holds nothing, is no part of the key."""
    unchanged: Callable[[Any], bool] | None = None
    """For which runs the newest version gives what the one before gave, bit for bit: they keep its key."""
    command: dict[str, Any] | None = None
    """Of a stage of the user's own that is called: how, and what is read of it."""
    code: str | None = None
    """Of a stage of a plugin: what its key says of its code."""

    @property
    def is_own(self) -> bool:
        """Whether it is the user's."""
        return self.command is not None or self.code is not None

    def inputs_of(self, spec: Run) -> tuple[str, ...]:
        """The stages whose output it reads in a run."""
        return tuple(name for name in self.inputs if name not in self.only_if or self.only_if[name](spec))

    def sections_of(self, spec: Run) -> tuple[str, ...]:
        """The sections of a run that are in its key."""
        own = type(spec).model_fields
        return (*self.sections, *(name for name in self.optional if name in own and spec.section(name)))

    def version_of(self, spec: Run) -> int:
        """The version that counts for a run."""
        return self.version - 1 if self.unchanged is not None and self.unchanged(spec) else self.version

    def flops_of(self, spec: Run) -> float:
        """Operations of this stage of a run; 0 where nobody knows."""
        return 0.0 if self.flops is None else float(self.flops(spec))

    def disk_of(self, spec: Run) -> float:
        """Bytes that this stage of a run leaves; 0 of the user's own, of which nobody knows."""
        if self.disk is not None:
            return float(self.disk(spec))
        return 0.0 if self.is_own else LITTLE

    def working_disk_of(self, spec: Run) -> float:
        """Bytes that this stage of a run keeps until it is done."""
        return 0.0 if self.working_disk is None else float(self.working_disk(spec))

    @property
    def goes_on(self) -> str:
        """What the next attempt does after one that was stopped or killed, as words behind "it"."""
        if self.is_own and self.keeps is None:
            return MAY_GO_ON
        if self.keeps == "checkpoints":
            return "goes on from its last checkpoint"
        return "goes on after the shards that are finished" if self.keeps == "shards" else "begins again"


LITTLE = 1e5
"""Bytes of numbers and logs."""
MAY_GO_ON = "goes on from the checkpoints that it keeps, or begins again"
"""What is said where nothing more is known."""


def result_names(stages: Mapping[str, Stage]) -> list[str]:
    """Every number that a table's column may show, as `stage/name`."""
    return [f"{stage.name}/{result}" for stage in stages.values() for result in stage.results]


def curve_names(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Every curve that a report may show, as `stage/name`, and what its steps are."""
    return {f"{stage.name}/{name}": step for stage in stages.values() for name, step in stage.curves.items()}


def file_of(stages: Mapping[str, Stage], figure: str) -> tuple[str, str] | None:
    """The first stage that makes what a kind of figure is drawn from, and that file; None where none does."""
    return next(((stage.name, stage.drawn[figure]) for stage in stages.values() if figure in stage.drawn), None)


def needed_of(targets: Iterable[str], stages: Mapping[str, Stage], spec: Run | None = None) -> tuple[str, ...]:
    """`targets` and all they need of `stages`, each after its inputs: in one run, or in any."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in stages:
            for before in stages[name].inputs if spec is None else stages[name].inputs_of(spec):
                visit(before)
        if name not in order:
            order.append(name)

    for target in targets:
        visit(target)
    return tuple(order)

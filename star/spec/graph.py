"""The declaration of a stage: all that the platform needs to know of one. Light on purpose: stage code imports torch.

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

    Code that is slow to import is given as `module:name`. The functions in `only_if`, `flops`, `disk`, `working_disk`
    and `unchanged` get the run.
    """

    name: str
    version: int
    sections: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    """Stages whose output it reads."""
    only_if: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    """Inputs that not every run reads: name -> whether a run reads it. If it does not, the input is not in its key. A run
    that does not read it should lack that stage (`Run.pipeline`): what knows no run, such as `status`, counts it."""
    config: Mapping[str, str] = field(default_factory=dict)
    """Sections that it adds to a run: name -> `module:class` of the model. Its defaults fill in a missing section."""
    check: str | None = None
    """`module:function` that raises FieldError if fields of a run do not fit together."""
    run: str | None = None
    """`module:function` of its code, which only a worker imports; it gets a `star.stages.context.Context`."""
    source: str | None = None
    """A name for the external files or folders that it reads; their fingerprint is in its key."""
    given: tuple[str, ...] = ()
    """Dotted paths of the fields of a run that name such files. The key holds the files' contents, not their paths."""
    look: str | None = None
    """`module:function`: of a run and a `star.spec.outside.Outside`, the fingerprint, or None if nothing is read."""
    results: tuple[str, ...] = ()
    """Numbers that it ends with, as table columns name them; `{extractor}` is filled in from the run's spec."""
    curves: Mapping[str, str] = field(default_factory=dict)
    """Numbers that it records step by step: name -> what a step is."""
    also_recorded: tuple[str, ...] = ()
    """Further numbers that it records step by step; reports cannot name them."""
    limits: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """What numbers of other stages are to be read by: their name -> pairs of words and the name of a result of this stage.
    Tables print them below the numbers."""
    highlights: Mapping[str, str] = field(default_factory=dict)
    """Results that `status` and the board print beside a row: name without the part before `/` -> name shown there."""
    charts: tuple[str, ...] = ()
    """Curves that the page of a run draws, in this order."""
    files: tuple[str, ...] = ()
    """Output files that are attached to the tracked run: pictures, and data for figures."""
    drawn: Mapping[str, str] = field(default_factory=dict)
    """Kind of figure (`samples`, `attention`, `codes`) -> the file among `files` that it is made from."""
    weights: tuple[str, ...] = ()
    """Weights in its output that can be exported; the first is the default."""
    keeps: Literal["checkpoints", "shards"] | None = None
    """What a stopped or killed attempt leaves for the next one. With `checkpoints`, needed output is never removed."""
    draws: str = ""
    """What its random numbers decide, as words: reports say which of these vary over seeds."""
    width: Literal["process", "processes", "machines"] = "process"
    """How wide one job may be: one process, several processes of one machine, or several machines."""
    smaller_passes: bool = True
    """Whether it takes its images in passes that may be halved when memory runs out."""
    gpu: bool = True
    """Whether it computes on a GPU if there is one."""
    flops: Callable[[Any], float] | None = None
    """FLOPs of this stage in a run, a multiply-add counted as two; None: unknown."""
    disk: Callable[[Any], float] | None = None
    """Bytes of its output in a run; None: little."""
    working_disk: Callable[[Any], float] | None = None
    """Bytes that it keeps only until it is done, such as checkpoints; None: little."""
    is_target: bool = True
    """Whether it can be a target of an experiment; if not, it only serves other stages."""
    optional: tuple[str, ...] = ()
    """Sections that a run may lack. A missing or empty one is not in the key."""
    unchanged: Callable[[Any], int] | None = None
    """How many of the newest versions give a run bit for bit what the one before them gave; such a run keeps its key. True is 1."""
    follows: Callable[[Any], bool] | None = None
    """Whether everything that decides it in a run decides another stage too; the run's key then leaves it out, so that it
    could be added without giving every run another key."""
    command: dict[str, Any] | None = None
    """For a user's command: what is called, and which numbers are read from it. None for other stages."""
    code: str | None = None
    """For a stage of a plugin: what identifies its code in the key. None for other stages."""

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own: a command, or a stage of a plugin."""
        return self.command is not None or self.code is not None

    def inputs_of(self, spec: Run) -> tuple[str, ...]:
        """Names of the stages whose output it reads in this run."""
        return tuple(name for name in self.inputs if name not in self.only_if or self.only_if[name](spec))

    def sections_of(self, spec: Run) -> tuple[str, ...]:
        """Names of the run's sections that are in its key."""
        own = type(spec).model_fields
        return (*self.sections, *(name for name in self.optional if name in own and spec.section(name)))

    def version_of(self, spec: Run) -> int:
        """The version in the run's key: the last one that changed its result."""
        return self.version - int(self.unchanged(spec)) if self.unchanged is not None else self.version

    def flops_of(self, spec: Run) -> float:
        """FLOPs of this stage in a run, a multiply-add counted as two; 0 if unknown."""
        return 0.0 if self.flops is None else float(self.flops(spec))

    def disk_of(self, spec: Run) -> float:
        """Bytes of this stage's output in a run; 0 for a user's own stage, where it is unknown."""
        if self.disk is not None:
            return float(self.disk(spec))
        return 0.0 if self.is_own else LITTLE

    def working_disk_of(self, spec: Run) -> float:
        """Bytes that this stage keeps in a run only until it is done; 0 if not declared."""
        return 0.0 if self.working_disk is None else float(self.working_disk(spec))

    @property
    def goes_on(self) -> str:
        """What the next attempt does after one was stopped or killed, as words that follow "it"."""
        if self.is_own and self.keeps is None:
            return MAY_GO_ON
        if self.keeps == "checkpoints":
            return "goes on from its last checkpoint"
        return "goes on after the shards that are finished" if self.keeps == "shards" else "begins again"


LITTLE = 1e5
"""Bytes assumed for the output of a stage that leaves only numbers and logs."""
MAY_GO_ON = "goes on from the checkpoints that it keeps, or begins again"
"""`goes_on` of a stage of which nothing more is known."""


def result_names(stages: Mapping[str, Stage]) -> list[str]:
    """Every number that a table's column may show, as `stage/name`."""
    return [f"{stage.name}/{result}" for stage in stages.values() for result in stage.results]


def curve_names(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Every curve that a report may show: `stage/name` -> what a step is."""
    return {f"{stage.name}/{name}": step for stage in stages.values() for name, step in stage.curves.items()}


def file_of(stages: Mapping[str, Stage], figure: str) -> tuple[str, str] | None:
    """(stage, file) of the first stage that makes the data of this kind of figure; None if no stage does."""
    return next(((stage.name, stage.drawn[figure]) for stage in stages.values() if figure in stage.drawn), None)


def needed_of(targets: Iterable[str], stages: Mapping[str, Stage], spec: Run | None = None) -> tuple[str, ...]:
    """`targets` and all of `stages` that they need, each after its inputs. With `spec`, only what this run reads."""
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

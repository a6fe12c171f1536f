"""Stages that are the user's own commands: what is called, what it reads, and what it leaves.

`stages:` of an experiment declares such stages. Each has a section of its own name in the run's spec, with the parameters that it
declares, and the platform treats it as any other: keys, plan, resume, tables.
"""

from __future__ import annotations

import math
import operator
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, create_model, model_validator

from star.spec.base import FieldError, Finite, Section, at_home, is_new, text_like
from star.spec.graph import Stage

Scalar = bool | int | float | str
NAME = re.compile("[a-z][a-z0-9_]*")
"""Legal names of a user's own stage: commands have them in braces, paths before a dot."""
ScriptName = Annotated[
    str, text_like(r"^[A-Za-z][A-Za-z0-9_]*$", "a name of letters, digits and _ that begins with a letter")
]
MOST_STEPS = 2**63
"""Steps from this on do not fit into a database."""
METRIC_NAME = r"^[A-Za-z0-9][A-Za-z0-9_./-]*$"
MetricName = Annotated[
    str, text_like(METRIC_NAME, "a name of letters, digits, _, ., - and / that begins with a letter or a digit")
]
GIVEN = ("seed", "out", "checkpoints", "resume", "threads", "processes", "device", "parameters")
"""Placeholders of every command, beside its own parameters, the stages it comes after, and what it reads."""
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
}
QUOTED = re.compile(r"""\\.|'[^']*'|"(\\.|[^"\\])*\"""")
"""What a command has in quotes or behind a backslash: text, whatever signs are in it."""
SHELL = re.compile(r"(?<!\S)\d*[<>|&;]\S*|[;&|]+(?!\S)|`|\$[A-Za-z_({]+|(?<!\S)~(/\S*)?(?!\S)|^\s*[A-Za-z_]\w*=\S*")
"""What means something to a shell alone, outside of quotes: operators at a word's start or end, variables, a home, a variable set for
the command."""
OF_ALL = ("seconds", "cpu_hours", "gpu_hours")
"""Numbers that the platform itself records of every job."""
TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


class Parameter(Section):
    """One parameter of a command; a value alone is its default."""

    type: Literal["int", "float", "str", "bool"] | None = Field(None, description="null: that of the default")
    default: Scalar | None = Field(None, description="null: each run must give one")
    neutral: Scalar | None = Field(
        None, description="the value at which it is outside the key: as if it were not there"
    )
    ge: Finite | None = None
    gt: Finite | None = None
    le: Finite | None = None
    lt: Finite | None = None
    choices: list[Scalar] | None = Field(None, min_length=1)
    description: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """Take a plain value as the parameter's default."""
        return value if isinstance(value, dict | Parameter) else {"default": value}

    @model_validator(mode="after")
    def _typed(self) -> Parameter:
        if self.type is None and self.default is None:
            raise FieldError("type", "give a type (int, float, str, bool) or a default")
        for name in ("default", "neutral"):
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise FieldError(
                    name, f"{value} is no finite number; leave it out, and let the script know what that means"
                )
            if value is not None and not self._is_legal(value):
                raise FieldError(name, f"{value!r} is not of the type {self.kind}")
        if self.kind == "float":  # 1 and 1.0 are one value, and one key
            for name in ("default", "neutral"):
                if getattr(self, name) is not None:
                    object.__setattr__(self, name, float(getattr(self, name)))
            if self.choices and all(self._is_legal(choice) for choice in self.choices):
                object.__setattr__(self, "choices", [float(choice) for choice in self.choices])
        return self

    @model_validator(mode="after")
    def _within_its_limits(self) -> Parameter:
        limits = {name: getattr(self, name) for name in COMPARE if getattr(self, name) is not None}
        if limits and self.kind not in ("int", "float"):
            raise FieldError(next(iter(limits)), f"limits are for numbers, and this is of the type {self.kind}")
        for i, choice in enumerate(self.choices or ()):
            if not self._is_legal(choice):
                raise FieldError(f"choices.{i}", f"{choice!r} is not of the type {self.kind}")
        for name in ("default", "neutral"):
            value = getattr(self, name)
            if value is None:
                continue
            if self.choices and value not in self.choices:
                raise FieldError(name, f"{value!r} is not among its choices: {', '.join(map(str, self.choices))}")
            broken = [limit for limit, bound in limits.items() if not COMPARE[limit](value, bound)]
            if broken:
                raise FieldError(name, f"{value!r} breaks its own limit {broken[0]}: {limits[broken[0]]:g}")
        return self

    @property
    def kind(self) -> str:
        """Name of the parameter's type: the one given, or that of the default."""
        return self.type or type(self.default).__name__

    def _is_legal(self, value: Scalar) -> bool:
        return type(value) is TYPES[self.kind] or (self.kind == "float" and type(value) is int)

    def field(self) -> tuple[Any, Any]:
        """The parameter as a pydantic field: its type, and its default with its limits."""
        limits: dict[str, Any] = {name: getattr(self, name) for name in COMPARE if getattr(self, name) is not None}
        if self.kind == "float":
            limits["allow_inf_nan"] = False
        if self.kind == "int":  # of a whole number as whole numbers: above 0.5 is from 1
            whole = {
                name: math.floor(bound) if name in ("gt", "le") else math.ceil(bound) for name, bound in limits.items()
            }
            limits = dict(whole)
        info: Any = Field(... if self.default is None else self.default, description=self.description, **limits)
        return (Literal[tuple(self.choices)] if self.choices else TYPES[self.kind]), info


class ScriptSection(Section):
    """The parameters of one command."""

    neutral_values: ClassVar[dict[str, Scalar]] = {}

    def identity(self) -> dict[str, Any]:
        """The parameters as JSON, without those at their neutral value."""
        neutral = self.neutral_values
        values = self.model_dump(mode="json")
        return {name: value for name, value in values.items() if name not in neutral or neutral[name] != value}


class ScriptStage(Section):
    """A command of one's own as a stage."""

    command: str = Field(
        min_length=1,
        description="what is called, such as `python train.py --lr {lr} --seed {seed} --out {out}`; no shell reads it",
    )
    parameters: dict[ScriptName, Parameter] = Field(
        default_factory=dict,
        description="name -> default, or {type, default, ge, gt, le, lt, choices, neutral, description}",
    )
    files: list[str] = Field(
        default_factory=list,
        description="files of the script, or patterns such as `lib/*.py`, from the experiment's folder; those that the command names "
        "are taken without being listed. Their contents are in the key, and it is run from a copy of them",
    )
    folder: str = Field("", description="where the files are; the experiment's folder")
    reads: dict[ScriptName, str] = Field(
        default_factory=dict, description="name -> file or folder of data that it reads: in the key by its contents"
    )
    after: list[str] = Field(
        default_factory=list, description="stages whose output it reads, as {STAGE} in the command"
    )
    results: list[MetricName] | dict[MetricName, str] = Field(
        default_factory=list,
        description="the numbers that it ends with: names in results_file, or name -> regular expression whose first group is the number "
        "in what it prints, where the last match counts",
    )
    results_file: str = Field(
        "results.json", description="JSON of names and numbers, in {out} unless it begins with {checkpoints}"
    )
    curves: dict[MetricName, str] = Field(
        default_factory=dict, description="numbers that it reports while it runs -> what a step of them is"
    )
    curves_file: str = Field(
        "curves.jsonl",
        description="where: lines of JSON, a .csv with a column `step`, or a .json with a list (or `log_history`) of such lines",
    )
    attach: list[str] = Field(default_factory=list, description="files of its output to attach to the tracked run")
    keeps: Literal["checkpoints"] | None = Field(
        None, description="`checkpoints`: it leaves in {checkpoints} what the next attempt goes on from"
    )
    length: ScriptName | None = Field(
        None,
        description="the whole-number parameter that says how long it trains: a search compares trials at smaller values of it, and "
        "{resume} is the output of the longest shorter run, or nothing",
    )
    gpu: bool = Field(True, description="whether it computes on a GPU where there is one")
    version: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _names(self) -> ScriptStage:
        for place, names in (("parameters", list(self.parameters)), ("reads", list(self.reads))):
            others = {*GIVEN, *self.after, *(self.reads if place == "parameters" else ())}
            for name in names:
                if name in others:
                    raise FieldError(
                        f"{place}.{name}", f"{name!r} means something else in a command; give it another name"
                    )
        for name in self.parameters:
            if name in dir(ScriptSection):
                raise FieldError(f"parameters.{name}", f"{name!r} cannot be a parameter's name; give it another")
        if self.length is not None and (
            self.length not in self.parameters or self.parameters[self.length].kind != "int"
        ):
            whole_ones = [name for name, one in self.parameters.items() if one.kind == "int"]
            raise FieldError(
                "length",
                f"{self.length!r} is no parameter that is a whole number; those are: {', '.join(whole_ones) or 'none'}",
            )
        return self

    @model_validator(mode="after")
    def _places(self) -> ScriptStage:
        for field, place in (
            ("folder", self.folder),
            *((f"reads.{name}", place) for name, place in self.reads.items()),
        ):
            try:
                at_home(place or ".")
            except ValueError as error:
                raise FieldError(field, str(error)) from None
        return self

    @model_validator(mode="after")
    def _numbers(self) -> ScriptStage:
        for name, pattern in self.patterns.items():
            try:
                if re.compile(pattern).groups < 1:
                    raise FieldError(
                        f"results.{name}",
                        f"{pattern!r} has no group; put the number in one, as in 'accuracy: ([0-9.]+)'",
                    )
            except re.error as error:
                raise FieldError(f"results.{name}", f"{pattern!r} is no regular expression: {error}") from None
        for field, place in (("results_file", self.results_file), ("curves_file", self.curves_file)):
            inside = re.fullmatch(r"(\{(out|checkpoints)\}/)?([^{}]+)", place)
            if not inside or inside[3].startswith(("/", "~")) or ".." in Path(inside[3]).parts:
                raise FieldError(field, f"{place!r}: give a path in {{out}}, or one that begins with {{checkpoints}}/")
        for name in (*self.results, *self.curves):
            if not is_metric_name(name):
                where = "results" if name in self.results else "curves"
                raise FieldError(
                    where, f"{name!r} is no name that MLflow takes: parts with one / between them, none of them a dot"
                )
            if name in self.curves and name in ("step", "of"):
                raise FieldError("curves", f"{name!r} says in a line where the script is; give the number another name")
            if name in OF_ALL or (name in self.results and name in self.curves):
                told = "every stage has" if name in OF_ALL else "is a result and a curve"
                place = "results" if name in self.results else "curves"
                raise FieldError(place, f"{name!r} {told}; give it another name")
        return self

    @model_validator(mode="after")
    def _of_new_files(self, info: ValidationInfo) -> ScriptStage:
        if not is_new(info):
            return self
        for i, name in enumerate(self.attach):
            if not is_inside(name):
                raise FieldError(
                    f"attach.{i}", f"{name!r}: give the path of one file in {{out}}, such as plots/loss.png"
                )
        if self.patterns and self.results_file != "results.json":
            raise FieldError("results_file", "is not read where results are patterns of what is printed; leave it out")
        shell = SHELL.search(QUOTED.sub("_", self.command))
        if shell is not None:
            raise FieldError(
                "command",
                f'no shell reads it, which {shell[0].strip()} would need; write `bash -c "..."` around it, or quotes if it is text',
            )
        return self

    @model_validator(mode="after")
    def _placeholders(self) -> ScriptStage:
        legal = [*self.parameters, *self.reads, *self.after, *GIVEN]
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise FieldError("command", f"cannot be split into words: {str(error).lower()}") from None
        if not words:
            raise FieldError("command", "is empty; give what is to be called, such as `python train.py --out {out}`")
        try:
            named = list(self.placeholders())
        except ValueError as error:
            raise FieldError("command", f"cannot be read: {error}; write a brace itself as {{{{ or }}}}") from None
        for name in named:
            if name not in legal:
                raise FieldError("command", f"{{{name}}} is not known here; legal: {', '.join(legal)}")
        whole = "parameters" in named
        idle = [name for name in self.parameters if not whole and name not in named]
        if idle:
            raise FieldError(
                f"parameters.{idle[0]}", f"the command does not use it; write {{{idle[0]}}} or {{parameters}} into it"
            )
        return self

    def placeholders(self) -> Iterator[str]:
        """Yield the names in braces in the command.

        Raises:
            ValueError: braces hold more than a name, or do not match.
        """
        for _, name, spec, conversion in Formatter().parse(self.command):
            if name is not None:
                if spec or conversion or not name.isidentifier():
                    whole = f"{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}"
                    raise ValueError(f"{{{whole}}} is more than a name in braces")
                yield name

    @property
    def recipe(self) -> dict[str, Any]:
        """What the stage's key holds of the command: its line, and the numbers that are read from it."""
        found: dict[str, Any] = {"line": self.command, "results": self.results}
        return found if self.results_file == "results.json" else {**found, "results_file": self.results_file}

    @property
    def patterns(self) -> dict[str, str]:
        """Result -> regular expression, for results that are read from what the command prints; else empty."""
        return self.results if isinstance(self.results, dict) else {}

    @property
    def uses_seed(self) -> bool:
        """Whether the command names {seed}, so that runs of different seeds differ."""
        return "seed" in self.placeholders()

    def section(self, name: str) -> type[ScriptSection]:
        """The pydantic model of the command's parameters: its section in a run."""
        fields: Any = {one: parameter.field() for one, parameter in self.parameters.items()}
        model = create_model(f"{name.title()}Parameters", __base__=ScriptSection, **fields)
        model.neutral_values = {one: p.neutral for one, p in self.parameters.items() if p.neutral is not None}
        return model

    def stage(self, name: str) -> Stage:
        """The command in the form that the platform uses for all stages."""
        sections = (name, "seed") if self.uses_seed else (name,)
        return Stage(
            name,
            self.version,
            sections,
            tuple(self.after),
            source=source_of(name),
            results=tuple(self.results),
            curves=dict(self.curves),
            files=tuple(self.attach),
            keeps=self.keeps,
            width="processes",
            gpu=self.gpu,
            command=self.recipe,
        )


def is_inside(name: str) -> bool:
    """Whether a path, as written, is that of one file inside a folder: not absolute, no step up, no pattern."""
    parts = name.split("/")
    return bool(name.strip()) and not name.startswith(("/", "~")) and ".." not in parts and not set(name) & set("*?[")


def mlflow_takes(name: str) -> bool:
    """Whether MLflow takes a metric of this name, which need not be one that a formula can name."""
    return re.fullmatch(r"[/\w.\- :]+", name) is not None and posixpath.normpath(name) == name and name[0] not in "/."


def is_metric_name(name: str) -> bool:
    """Whether MLflow takes a metric of this name: parts with one / between them, none of them a dot."""
    plain = re.fullmatch(METRIC_NAME, name) is not None
    return plain and posixpath.normpath(name) == name and ".." not in name.split("/")


def scripts_of(spec: object) -> Mapping[str, ScriptStage]:
    """The commands that a run declares as stages, by name; empty if there are none."""
    found: Mapping[str, ScriptStage] = getattr(spec, "stages", {})
    return found


def source_of(stage: str) -> str:
    """The name, among a run's sources, of a script's files and of the data that it reads."""
    return f"stages.{stage}"

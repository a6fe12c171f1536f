"""A search: which fields of a run may vary, what a good run is, and how good ones are looked for."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from star.spec.base import Count, FieldError, Positive, Section, Seed
from star.spec.experiment import DEFAULT_PROFILE, PLUGINS, Declared, pipeline_of, taken_names
from star.spec.graph import Stage
from star.spec.own_stages import check_stages
from star.spec.plugin_parts import Plugin
from star.spec.reporting import Name
from star.spec.scripts import ScriptStage

Scalar = bool | int | float | str | None
Number = int | Annotated[float, Field(allow_inf_nan=False)]


class Parameter(Section):
    """The values that a field may take: a range from `low` to `high`, or `choices`."""

    low: Number | None = None
    high: Number | None = None
    log: bool = Field(False, description="even in the logarithm; the range begins above 0")
    step: Number | None = Field(None, description="distance of the values that are tried; any value by default")
    choices: list[Scalar] = Field(default_factory=list, description="the values, where they are no range")
    when: dict[str, list[Scalar]] = Field(
        default_factory=dict,
        description="only while these parameters, which come before it and have choices, have one of these values",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        if self.choices:
            return self._check_choices()
        if self.low is None or self.high is None:
            raise FieldError("low" if self.low is None else "high", "give low and high, or choices")
        if self.low >= self.high:
            raise FieldError("high", f"the range from {self.low:g} to {self.high:g} is empty; high must be above low")
        if self.log and self.low <= 0:
            raise FieldError(
                "low", f"a range in the logarithm cannot begin at {self.low:g}; begin above 0, or leave log out"
            )
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise FieldError(
                "step", f"{self.step:g} does not fit into the range; give one above 0 and up to its length"
            )
        if self.step is not None and self.log:
            raise FieldError("step", "a range in the logarithm has no even steps; leave one of log and step out")
        steps = 0.0 if self.step is None else (self.high - self.low) / self.step
        if not isfinite(steps) or not isfinite(self.high - self.low):
            raise FieldError(
                "step" if self.step else "high", "makes more values than there are numbers; give a smaller range"
            )
        if self.step is not None and abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
            ends = " or ".join(f"{self.low + (int(steps) + more) * self.step:g}" for more in (0, 1))
            raise FieldError("high", f"no step of {self.step:g} from {self.low:g} ends at {self.high:g}; give {ends}")
        return self

    def _check_choices(self) -> Parameter:
        if {"low", "high", "log", "step"} & self.model_fields_set:
            raise FieldError("choices", "stand for themselves; low, high, log and step belong to a range")
        if any(isinstance(choice, float) and not isfinite(choice) for choice in self.choices):
            raise FieldError("choices", "nan and inf are no values; leave them out")
        if len(self.choices) < 2 or len({(type(one) is bool, one) for one in self.choices}) < len(self.choices):
            raise FieldError("choices", "give two different ones or more")
        return self


class Objective(Section):
    """A number of a finished run, and which way is better."""

    metric: str = Field(description="stage/name or stage/curve@where")
    direction: Literal["maximize", "minimize"]
    title: str | None = Field(None, description="for tables and figures")
    scale: Positive = Field(1.0, description="factor before printing: 100 for per cent")
    digits: Annotated[int, Field(ge=0, le=6)] = 2


class Sampler(Section):
    """Where the next trial is: one of Optuna's samplers."""

    name: Literal["default", "tpe", "gp", "cmaes", "nsgaii", "random"] = Field(
        "default", description="default: TPE for one objective, NSGA-II for several"
    )
    seed: Seed = 0
    startup: Annotated[int, Field(ge=1)] = Field(10, description="trials at random before a model is made of them")


class Pruner(Section):
    """Ends trials early that are behind others at the same step of training: one of Optuna's pruners."""

    name: Literal["none", "halving", "hyperband"] = Field(
        "none", description="successive halving (ASHA), or Hyperband over several of them"
    )
    min_steps: Count | None = Field(None, description="optimizer steps until trials are compared for the first time")
    reduction: Annotated[int, Field(ge=2)] = Field(
        3, description="of so many trials one goes on, and trains so many times as long"
    )
    spec: dict[str, Any] = Field(
        default_factory=dict, description="a partial spec for these comparisons, such as a cheaper probe"
    )

    @model_validator(mode="after")
    def _steps(self) -> Pruner:
        if (self.name == "none") != (self.min_steps is None):
            raise FieldError("min_steps", "belongs to a pruner: give both, or neither")
        if self.name == "none" and self.spec:
            raise FieldError("spec", "changes what a pruner compares; without one there is nothing to change")
        return self


class Confirm(Section):
    """The best trials repeated, beside the default, on seeds that had no part in choosing them."""

    top: Annotated[int, Field(ge=1)] = 3
    seeds: list[Seed] = Field(min_length=2)


class SearchSpec(Section):
    """One YAML file of `experiments/` that begins with `search:`."""

    search: Name = Field(description="its name, also of its folder under reports/")
    title: str
    profile: str = Field(DEFAULT_PROFILE, description="the profile to run at unless --profile says otherwise")
    use: list[str] = Field(default_factory=list, description="presets of the profile for every trial")
    base: dict[str, Any] = Field(default_factory=dict, description="a partial spec over the profile's")
    space: dict[str, Parameter] = Field(
        min_length=1, description="dotted path -> the values it may take; the base's own values are the first trial"
    )
    stages: dict[str, ScriptStage] = Field(
        default_factory=dict, description="commands of your own as stages, as an experiment has them"
    )
    plugins: dict[str, Plugin] = Field(default_factory=dict, description=PLUGINS)
    objectives: list[Objective] = Field(min_length=1, max_length=3)
    trials: Count = Field(description="how many, those that are ended early among them; --trials says otherwise")
    seeds: list[Seed] = Field([0], min_length=1, description="of each trial; its value is their mean")
    start: list[dict[str, Scalar]] = Field(
        default_factory=list, description="points to try after the default, as dotted path -> value"
    )
    targets: list[str] = Field(default_factory=list, description="stages to reach beside those of the objectives")
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    confirm: Confirm | None = None

    @property
    def declared(self) -> Declared:
        """What the file declares: its stages and plugins, and the targets of its trials."""
        reached = [objective.metric.split("/")[0] for objective in self.objectives]
        return Declared.model_construct(stages=self.stages, plugins=self.plugins, targets=[*reached, *self.targets])

    @property
    def pipeline(self) -> Mapping[str, Stage]:
        """All stages that the search's runs may have, by name."""
        return pipeline_of(self.declared)

    @model_validator(mode="after")
    def _fits_together(self) -> SearchSpec:
        if len(set(self.seeds)) != len(self.seeds):
            raise FieldError("seeds", "a seed stands twice")
        check_stages(self.stages, self.plugins, taken_names())
        try:
            self.declared.check(self.targets)
        except FieldError as error:
            raise FieldError(".".join(error.path), str(error)) from None
        several = len(self.objectives) > 1
        metrics = [objective.metric for objective in self.objectives]
        for i, metric in enumerate(metrics):
            if metric in metrics[:i]:
                raise FieldError(f"objectives.{i}.metric", f"{metric!r} stands twice; each objective is its own")
        if several and self.pruner.name != "none":
            raise FieldError("pruner.name", f"{self.pruner.name} compares by one objective; with several give none")
        if several and self.sampler.name == "cmaes":
            raise FieldError("sampler.name", "cmaes has one objective; with several give tpe, gp, nsgaii or random")
        if self.confirm:
            seeds = self.confirm.seeds
            if len(set(seeds)) != len(seeds) or set(seeds) & set(self.seeds):
                raise FieldError("confirm.seeds", "each stands once, and none is among the trials' own seeds")
        names = list(self.space)
        for i, (name, parameter) in enumerate(self.space.items()):
            for other, values in parameter.when.items():
                legal = self.space[other].choices if other in names[:i] else []
                if any(value not in legal for value in values) or not values:
                    raise FieldError(
                        ("space", name, "when"),
                        f"{other} must be a parameter above it, and have these values among its choices",
                    )
        return self

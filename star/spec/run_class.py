"""The class of a run: ST-AR's, one with sections for stages of the user's own beside it, or one that has nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field, create_model

from star.spec.graph import STAGES, Stage, needed_of
from star.spec.resources import Resources, StarResources, resources_class
from star.spec.run import RunSpec
from star.spec.run_base import Run, Seed, Training
from star.spec.scripts import ScriptStage, scripts_of


class ScriptRun(Run):
    """A run of commands alone."""

    if not TYPE_CHECKING:
        resources: Resources = Resources()
    seed: Seed = 0

    @property
    def pipeline(self) -> Mapping[str, Stage]:
        """None of its own: those that are declared."""
        return {}

    @property
    def training(self) -> Training | None:
        """The first of its commands that says by which parameter it is shorter."""
        for name, script in scripts_of(self).items():
            if script.length is not None:
                return Training(name, f"{name}.{script.length}", getattr(getattr(self, name), script.length))
        return None


def run_class(declared: Mapping[str, ScriptStage], full: bool = True) -> type[Run]:
    """The class of the runs of an experiment.

    Args:
        declared: its own stages.
        full: whether they have ST-AR's stages too.
    """
    texts = tuple((name, _without_places(script).model_dump_json()) for name, script in declared.items())
    return _made(texts, full) if texts else RunSpec


def parse_run(values: Mapping[str, Any]) -> Run:
    """A run as it was recorded, of whichever class.

    Raises:
        pydantic.ValidationError: it is none of this version's.
    """
    declared = {name: ScriptStage.model_validate(value) for name, value in (values.get("stages") or {}).items()}
    return run_class(declared, not declared or "optim" in values).model_validate(values)


def _without_places(script: ScriptStage) -> ScriptStage:
    """Where its files and data lie makes no other class."""
    return script.model_copy(update={"folder": "", "reads": dict.fromkeys(script.reads, "")})


@cache
def _made(texts: tuple[tuple[str, str], ...], full: bool) -> type[Run]:
    declared = {name: ScriptStage.model_validate(json.loads(text)) for name, text in texts}
    stages = {name: script.stage(name) for name, script in declared.items()}
    sections = {name: script.section(name) for name, script in declared.items()}
    base: type[Run] = RunSpec if full else ScriptRun
    kind: type[Resources] = StarResources if full else Resources
    resources = resources_class(kind, {**(STAGES if full else {}), **stages})

    class OwnRun(base):  # type: ignore[valid-type, misc]
        @property
        def pipeline(self) -> Mapping[str, Stage]:
            found = dict(super().pipeline)
            for name in needed_of(stages, stages):  # where images are given, nothing comes after a training
                if name in stages and all(before in found for before in stages[name].inputs):
                    found[name] = stages[name]
            return found

    fields: dict[str, Any] = {"resources": (resources, resources()), "stages": (dict[str, ScriptStage], ...)}
    for name, section in sections.items():
        is_whole = all(not field.is_required() for field in section.model_fields.values())
        # what lacks a value is told by its own name, not by its section's
        fields[name] = (section, section() if is_whole else Field(default_factory=dict, validate_default=True))
    return cast("type[Run]", create_model(base.__name__, __base__=OwnRun, __doc__=base.__doc__, **fields))

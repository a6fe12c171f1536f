"""The built-in pipeline. It is found by name, so that no part of the platform imports a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from star.spec.graph import MAY_GO_ON, Stage, needed_of

if TYPE_CHECKING:
    from star.spec.assemble import Runs

NAME = "star.pipeline:PIPELINE"
"""Where the built-in pipeline is, as `module:name`."""


@dataclass(frozen=True)
class Pipeline:
    """Stages that belong together, and the classes of their runs."""

    stages: Mapping[str, Stage]
    """Name -> stage, each after its inputs."""
    targets: tuple[str, ...]
    """Stages that an experiment reaches if it names no others."""
    runs: str
    """`module:name` of a `star.spec.assemble.Runs`: the classes of its runs."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Former dotted path of a field of a run -> its current path."""


@cache
def pipeline() -> Pipeline:
    """The built-in pipeline, which the runs of a file have if it declares no stages."""
    found: Pipeline = resolve_name(NAME)
    return found


def builtin_stages() -> Mapping[str, Stage]:
    """The stages of the built-in pipeline by name, each after its inputs."""
    return pipeline().stages


def given_fields() -> list[str]:
    """Dotted paths of the fields of built-in runs that name files. Keys hold the files' contents, not their paths."""
    return [path for stage in builtin_stages().values() for path in stage.given]


@cache
def builtin_runs() -> Runs:
    """The classes of the built-in pipeline's runs."""
    found: Runs = resolve_name(pipeline().runs)
    return found


@cache
def needed(targets: tuple[str, ...]) -> tuple[str, ...]:
    """`targets` and all built-in stages that they need, each after its inputs.

    A user's own stage adds only itself, because its declaration is not known here; `targets` holds what it needs.
    """
    return needed_of(targets, builtin_stages())


def goes_on(stage: str) -> str:
    """What the next attempt at a stage does after one was stopped or killed, as words that follow "it"."""
    known = builtin_stages().get(stage)
    return MAY_GO_ON if known is None else known.goes_on

"""The pipeline that comes with the platform, found by its name: no part of the platform imports a stage."""

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
"""`module:name`."""


@dataclass(frozen=True)
class Pipeline:
    """Stages that belong together."""

    stages: Mapping[str, Stage]
    """Each after its inputs."""
    targets: tuple[str, ...]
    """Stages that an experiment reaches unless it names others."""
    runs: str
    """`module:name` of the classes of its runs, a `Runs`."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Dotted path in a run that had another name -> the path now."""


@cache
def pipeline() -> Pipeline:
    """The pipeline of the runs of a file that declares no other stages."""
    found: Pipeline = resolve_name(NAME)
    return found


def builtin_stages() -> Mapping[str, Stage]:
    """Its stages, each after its inputs."""
    return pipeline().stages


def given_fields() -> list[str]:
    """Fields of their runs that name files, as dotted paths: what is in them is part of a key, not where they lie."""
    return [path for stage in builtin_stages().values() for path in stage.given]


@cache
def builtin_runs() -> Runs:
    """The classes of its runs."""
    found: Runs = resolve_name(pipeline().runs)
    return found


@cache
def needed(targets: tuple[str, ...]) -> tuple[str, ...]:
    """`targets` and all they need, each after its inputs. A stage of the user's own stands for itself: where its declaration is not
    at hand, those that it needs are among the targets."""
    return needed_of(targets, builtin_stages())


def goes_on(stage: str) -> str:
    """What the next attempt at a stage does after one that was stopped or killed, as words behind "it"."""
    known = builtin_stages().get(stage)
    return MAY_GO_ON if known is None else known.goes_on

"""Builds the class of a run from the stages that it may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from star.spec.base import Section, Seed
from star.spec.graph import Stage
from star.spec.plugin_parts import Plugin
from star.spec.resources import Resources, resources_class
from star.spec.run_base import Run

__all__ = ["Runs", "resources_class", "run_of", "section_field"]
R = TypeVar("R", bound=Run)


@dataclass(frozen=True)
class Runs:
    """The run classes of a pipeline."""

    plain: type[Run]
    with_plugins: Callable[[], type[Run]]
    """Returns the class of runs that may also use parts of plugins; the class is built on first use."""
    resources: type[Resources]
    fields_of: Callable[[Mapping[str, Plugin]], dict[str, Any]]
    """Maps plugins to the fields of a run that their parts add or change."""
    taken: frozenset[str] = frozenset()
    """Names that no part of a plugin can have, because they mean something else in a run."""
    own_terms: tuple[str, ...] = ()
    """Names of the pipeline's own loss terms."""


def run_of(base: type[R], stages: Mapping[str, Stage], resources: type[Resources], name: str) -> type[R]:
    """A subclass of `base`, called `name`, with the sections that these stages declare, `resources` and `seed`."""
    sections = {section: kind for stage in stages.values() for section, kind in stage.config.items()}
    fields: dict[str, Any] = {section: section_field(resolve_name(kind)) for section, kind in sections.items()}
    fields |= {"resources": (resources, resources()), "seed": (Seed, 0)}
    made: type[R] = create_model(name, __base__=base, __doc__=base.__doc__, **fields)
    made.declared_stages = stages
    made.stage_checks = tuple(resolve_name(stage.check) for stage in stages.values() if stage.check is not None)
    return made


def section_field(kind: type[Section]) -> tuple[Any, Any]:
    """A section as a pydantic field: (type, default). It is required if the section's defaults are not legal."""
    try:
        return kind, kind()
    except ValidationError:
        return kind, ...

"""Former names of fields. This version still reads them, with a note; the next one will not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star.spec.builtin import pipeline

OF_ROWS = {"quoted": "paper_only"}
"""Former name of a row's field -> its current name."""
OF_FILES = {"reference": "published_values"}
"""Former name of a field of an experiment's file -> its current name."""
BY_STAGE = ("threads", "processes", "nodes", "gpu_memory_gb", "memory_gb", "minutes")
"""Fields of `resources` that were mappings of stages to values before each stage had a section of its own."""


def renamed(path: str) -> str:
    """The current path of a field; `path` itself if it was not renamed.

    For example, `resources.threads.train` is now `resources.train.threads`.
    """
    steps = path.split(".")
    if len(steps) == 3 and steps[0] == "resources" and steps[1] in BY_STAGE:
        return f"resources.{steps[2]}.{steps[1]}"
    return pipeline().renamed.get(path, path)


def in_section(section: str) -> dict[str, str]:
    """Former name -> current name of the renamed fields of a section."""
    pairs = [(old.split("."), new.split(".")) for old, new in pipeline().renamed.items()]
    return {old[1]: new[1] for old, new in pairs if old[0] == section}


def under_new_names(values: Any, names: Mapping[str, str]) -> Any:
    """`values` of a section, with its fields under their current names.

    Raises:
        ValueError: a field is given under both names.
    """
    if not isinstance(values, dict) or not names.keys() & values.keys():
        return values
    both = [old for old, new in names.items() if old in values and new in values]
    if both:
        raise ValueError(f"{both[0]} is the former name of {names[both[0]]}; give one of them")
    return {names.get(name, name): value for name, value in values.items()}


def as_now(spec: dict[str, Any]) -> dict[str, Any]:
    """A run's spec that an older version recorded, with its fields under their current names."""
    changed = {}
    for section in {old.partition(".")[0] for old in pipeline().renamed}:
        names = in_section(section)
        if isinstance(spec.get(section), dict) and names.keys() & spec[section].keys():
            changed[section] = under_new_names(spec[section], names)
    return spec | changed if changed else spec


def told(spec: Any) -> list[str]:
    """A note, such as `old is now new`, for each former name or layout in a partial spec of a run."""
    if not isinstance(spec, dict):
        return []
    resources = spec.get("resources")
    found = [
        f"resources.{field}: {{STAGE: VALUE}} is now resources: {{STAGE: {{{field}: VALUE}}}}"
        for field in BY_STAGE
        if isinstance(resources, dict) and isinstance(resources.get(field), dict)
    ]
    for old, new in pipeline().renamed.items():
        section, field = old.split(".")
        if isinstance(spec.get(section), dict) and field in spec[section]:
            found.append(f"{old} is now {new}")
    return found

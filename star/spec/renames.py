"""Fields that had other names: read under these by this version, with a note, and by no later one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star.spec.builtin import pipeline

OF_ROWS = {"quoted": "paper_only"}
"""Field of a row -> its name now."""
OF_FILES = {"reference": "published_values"}
"""Field of an experiment's file -> its name now."""
BY_STAGE = ("threads", "processes", "nodes", "gpu_memory_gb", "memory_gb", "minutes")
"""Of `resources`: were mappings of stages, before a stage had a section of its own."""


def renamed(path: str) -> str:
    """The path of a field that had another one, else `path`: `resources.threads.train` is `resources.train.threads`."""
    steps = path.split(".")
    if len(steps) == 3 and steps[0] == "resources" and steps[1] in BY_STAGE:
        return f"resources.{steps[2]}.{steps[1]}"
    return pipeline().renamed.get(path, path)


def in_section(section: str) -> dict[str, str]:
    """The fields of a section that had other names: former -> now."""
    pairs = [(old.split("."), new.split(".")) for old, new in pipeline().renamed.items()]
    return {old[1]: new[1] for old, new in pairs if old[0] == section}


def under_new_names(values: Any, names: Mapping[str, str]) -> Any:
    """`values` of a section with its fields under the names that they have now.

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
    """A run's spec as an older version recorded it, with its fields under the names that they have now."""
    changed = {}
    for section in {old.partition(".")[0] for old in pipeline().renamed}:
        names = in_section(section)
        if isinstance(spec.get(section), dict) and names.keys() & spec[section].keys():
            changed[section] = under_new_names(spec[section], names)
    return spec | changed if changed else spec


def told(spec: Any) -> list[str]:
    """What a partial spec of a run says in former ways, in words."""
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

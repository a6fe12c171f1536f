"""What a bundle says of the folders of the machine that it comes from: nothing but the paths that its YAML gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

FROM_HOME = ("inputs", "resume_from", "data_home", "snapshot", "script", "plugins")
"""Fields of job.json that are paths in the home of the run."""


def portable_job(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what job.json says, with paths in the home named from the home's folder: `jobs/train-...`.

    Args:
        told: what job.json says; the home is where it was when the job began, which need not be where it is now.
    """
    home = PurePath(told["data_home"]).parent if "data_home" in told else None
    return {name: _named_from(home, value) if name in FROM_HOME else value for name, value in told.items()}


def _named_from(home: PurePath | None, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _named_from(home, one) for name, one in value.items()}
    if isinstance(value, list):
        return [_named_from(home, one) for one in value]
    is_inside = home is not None and isinstance(value, str) and PurePath(value).is_relative_to(home)
    return PurePath(value).relative_to(home).as_posix() if home is not None and is_inside else value


def portable_record(told: Mapping[str, Any], copy: str) -> dict[str, Any]:
    """Return what an experiment's record says, with the copy of its YAML in the home in place of the user's file.

    Args:
        told: the record.
        copy: path of the copy, from the home's folder.
    """
    layout = told.get("layout")
    return {**told, "layout": {**layout, "file": copy}} if layout else dict(told)

"""The paper's printed values, and which of them a row of ours stands beside."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from star.errors import SpecError
from star.spec.experiment import Experiment, Variant


@cache
def tables() -> dict[str, list[dict[str, Any]]]:
    """Table name -> rows."""
    import yaml

    text = resources.files("star.report.reference").joinpath("tables.yaml").read_text(encoding="utf-8")
    loaded: dict[str, list[dict[str, Any]]] = yaml.safe_load(text)
    return loaded


def row_for(experiment: Experiment, variant: Variant) -> dict[str, Any] | None:
    """The published row that agrees with a variant in everything the experiment matches on; None when there is none.

    Raises:
        SpecError: the table is not known, or several rows agree.
    """
    table = experiment.spec.table
    if table.published is None:
        return None
    if table.published not in tables():
        raise SpecError(f"{experiment.file}: table.published: {table.published!r} is not one of {', '.join(tables())}.")
    wanted = {column: spec_value(variant, path) for column, path in table.match.items()} | variant.row.published
    if not wanted:
        return None
    found = [
        row
        for row in tables()[table.published]
        if all(row.get(column, False) == value for column, value in wanted.items())
    ]
    if len(found) > 1:
        raise SpecError(
            f"{experiment.file}: row {variant.label!r} matches {len(found)} rows of the published {table.published}; "
            "say more in its `published`."
        )
    return found[0] if found else None


def spec_value(variant: Variant, path: str) -> Any:
    """The value of a field of the variant's spec at a dotted path."""
    value: Any = variant.runs[0]
    for step in path.split("."):
        value = value[step] if isinstance(value, dict) else getattr(value, step)
    return value

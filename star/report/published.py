"""The paper's printed values, and which of them a row of ours stands beside."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from star.errors import SpecError
from star.spec.experiment import Experiment, Variant
from star.spec.explain import meant


@cache
def tables() -> dict[str, list[dict[str, Any]]]:
    """Table name -> rows."""
    import yaml

    text = resources.files("star.report.reference").joinpath("tables.yaml").read_text(encoding="utf-8")
    loaded: dict[str, list[dict[str, Any]]] = yaml.safe_load(text)
    return loaded


def check(experiment: Experiment) -> None:
    """Whether everything that an experiment says of published values can be found, before anything is computed.

    Raises:
        SpecError: an unknown table or column, or a row that stands beside several published rows.
    """
    layout = experiment.spec.table
    if layout.published is None:
        return
    if layout.published not in tables():
        raise SpecError(
            f"{experiment.file}: table.published: {layout.published!r} is no published table"
            f"{meant(layout.published, list(tables()))}; legal: {', '.join(tables())}."
        )
    legal = sorted({column for row in tables()[layout.published] for column in row})
    asked = [column.published for column in layout.columns if column.published] + list(layout.match)
    for name in asked + [name for variant in experiment.variants for name in variant.row.published]:
        if name not in legal:
            raise SpecError(
                f"{experiment.file}: table: {name!r} is no column of the published {layout.published}"
                f"{meant(name, legal)}; legal: {', '.join(legal)}."
            )
    for variant in experiment.variants:
        row_for(experiment, variant)


def row_for(experiment: Experiment, variant: Variant) -> dict[str, Any] | None:
    """The published row that agrees with a variant in everything the experiment matches on; None when there is none.

    Raises:
        SpecError: several rows agree.
    """
    table = experiment.spec.table
    wanted = {column: spec_value(variant, path) for column, path in table.match.items()} | variant.row.published
    if table.published is None or not wanted:
        return None
    found = [
        row for row in tables()[table.published] if all(row.get(key, False) == value for key, value in wanted.items())
    ]
    if len(found) > 1:
        raise SpecError(
            f"{experiment.file}: row {variant.label!r} stands beside {len(found)} rows of the published {table.published}; "
            "say more in its `published`."
        )
    return found[0] if found else None


def spec_value(variant: Variant, path: str) -> Any:
    """The value of a field of the variant's spec at a dotted path."""
    value: Any = variant.runs[0]
    for step in path.split("."):
        value = value[step] if isinstance(value, dict) else getattr(value, step)
    return value

"""The rows of an experiment: each row of the file, at every point of the axes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from star.errors import SpecError
from star.spec.experiment import ExperimentSpec, Row, Variant, axis_name
from star.spec.explain import field_schema
from star.spec.profiles import Presets
from star.spec.run_base import Run
from star.spec.yamldoc import LocatedYaml, SourceLocation, nested, overlay

Axes = Mapping[str, Sequence[Any]]
"""Dotted path -> values."""


@dataclass(frozen=True)
class Placed:
    """A row before it is resolved."""

    row: Row
    """The row as written in the file; with an empty label if the file has only axes."""
    patch: LocatedYaml
    """What differs from the base."""
    number: int
    """Index of the row in the file."""
    point: tuple[int, ...] | None
    """Index of its value on each axis; None for a row that no axis varies."""
    center: tuple[int, ...] | None = None
    """With one axis at a time: indices of the values that the row has otherwise."""

    def stands_for(self, axis: int) -> bool:
        """Whether this point stands for all values of an axis that changes nothing in its row."""
        return self.point is None or self.point[axis] == (self.center[axis] if self.center else 0)


def rows_of(
    spec: ExperimentSpec, doc: LocatedYaml, presets: Presets, name: str, value: Callable[[Placed, str], Any]
) -> list[Placed]:
    """Every row at the points of the axes, in the file's order. A row that is only quoted stands once.

    Args:
        value: the value that a row has at a dotted path without the axes.

    Raises:
        SpecError: an axis is no field, has no values or one twice, is set by a row itself, or lacks the value that
            runs have otherwise while axes go one at a time.
    """
    _check_axes(spec, doc)
    only_axes = Row.model_construct(label="")
    written = _written(spec, doc, presets) or [Placed(only_axes, LocatedYaml({}), 0, None)]
    if spec.one_at_a_time:
        written = [replace(one, center=_center(one, spec.axes, doc, value)) for one in written]
    return [crossed for placed in written for crossed in _crossed(placed, spec.axes, doc, name)]


def _center(
    placed: Placed, axes: Axes, doc: LocatedYaml, value: Callable[[Placed, str], Any]
) -> tuple[int, ...] | None:
    if placed.row.paper_only:
        return None
    center = []
    for axis, values in axes.items():
        own = value(placed, axis)
        if own not in values:
            who = f"the row {placed.row.label!r} has" if placed.row.label else "runs have"
            raise SpecError(
                f"{doc.location(('axes', axis))}: axes.{axis}: with one_at_a_time the value that {who} otherwise, {own!r}, is one of the "
                "axis's; add it, or set another in `base`."
            )
        center.append(list(values).index(own))
    return tuple(center)


def _check_axes(spec: ExperimentSpec, doc: LocatedYaml) -> None:
    for axis, values in spec.axes.items():
        location = doc.location(("axes", axis))
        try:
            field_schema(spec.run_class, axis)
        except SpecError as error:
            raise SpecError(f"{location}: axes.{error}.") from None
        if not values:
            raise SpecError(f"{location}: axes.{axis}: has no values; give a list of at least one.")
        texts = [repr(value) for value in values]
        for i, text in enumerate(texts):
            if text in texts[:i]:
                raise SpecError(
                    f"{doc.location(('axes', axis, i))}: axes.{axis}: the value {values[i]!r} stands twice; keep one."
                )


def _written(spec: ExperimentSpec, doc: LocatedYaml, presets: Presets) -> list[Placed]:
    rows = []
    for i, row in enumerate(spec.rows):
        patch = LocatedYaml({})
        for j, name in enumerate(row.use):
            patch = overlay(patch, presets.get(name, doc.location(("rows", i, "use", j))))
        if row.spec:
            patch = overlay(patch, doc.at("rows", i, "spec"))
        locations = {(): doc.locations["rows", i], **patch.locations}
        rows.append(Placed(row, LocatedYaml(patch.value, locations), i, None))
    return rows


def _crossed(placed: Placed, axes: Axes, doc: LocatedYaml, name: str) -> list[Placed]:
    if not axes or placed.row.paper_only:
        return [placed]
    found = []
    for point in itertools.product(*(range(len(values)) for values in axes.values())):
        if placed.center and sum(i != middle for i, middle in zip(point, placed.center, strict=True)) > 1:
            continue
        patch = placed.patch
        for (axis, values), i in zip(axes.items(), point, strict=True):
            location = doc.location(("axes", axis, i)) or SourceLocation(name)
            steps = tuple(axis.split("."))
            if steps in placed.patch.locations:
                raise SpecError(
                    f"{location}: axes.{axis}: the row {placed.row.label!r} sets it too, at {placed.patch.locations[steps]}; keep one."
                )
            patch = overlay(patch, nested(steps, values[i], location))
        found.append(replace(placed, patch=patch, point=point))
    return found


def idle_axes(rows: Sequence[Placed], axes: Axes, keys: Sequence[str]) -> dict[int, set[int]]:
    """Index of a row in the file -> indices of the axes whose values all give it the same runs.

    Args:
        keys: the key of the run of each of `rows`.
    """
    found: dict[int, set[int]] = {}
    for number in dict.fromkeys(row.number for row in rows if row.point is not None):
        own = {row.point: key for row, key in zip(rows, keys, strict=True) if row.number == number and row.point}
        found[number] = {i for i, values in enumerate(axes.values()) if len(values) > 1 and _is_idle(own, i)}
    return found


def _is_idle(keys: Mapping[tuple[int, ...], str], axis: int) -> bool:
    groups: dict[tuple[int, ...], set[str]] = {}
    for point, key in keys.items():
        groups.setdefault(point[:axis] + point[axis + 1 :], set()).add(key)
    return all(len(group) == 1 for group in groups.values())


def label_of(placed: Placed, axes: Axes, idle: set[int]) -> str:
    """The row's own label, and the values of the axes that vary it."""
    parts = [placed.row.label] if placed.row.label else []
    for i, (axis, values) in enumerate(axes.items()):
        if placed.point is not None and i not in idle:
            parts.append(f"{axis_name(axis, axes)}={values[placed.point[i]]}")
    return ", ".join(parts)


def variant_of(placed: Placed, runs: tuple[Run, ...], axes: Axes, idle: set[int]) -> Variant:
    """A row with its runs, under the label that names its point on the axes."""
    label = label_of(placed, axes, idle)
    return Variant(label, placed.row.model_copy(update={"label": label}), runs, tuple(axes))


def told_of(rows: Sequence[Placed], axes: Axes, idle: Mapping[int, set[int]]) -> list[str]:
    """Notes for the user about rows that stand once although an axis has several values."""
    labels, names = {row.number: row.row.label for row in rows}, list(axes)
    return [
        f"{labels[number]}: stands once for all values of {names[axis]}, which changes nothing of it"
        for number, its in idle.items()
        for axis in sorted(its)
    ]

"""The rows of an experiment: each row of the file, at every point of the axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
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
MOST_ROWS = 100_000
"""Most rows of an experiment: what a mistake in an axis would multiply to does not fit into memory."""


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
    """With one axis at a time: indices of the values that rows have without the axes."""

    def stands_for(self, axis: int) -> bool:
        """Whether this point stands for all values of an axis that changes nothing in its row."""
        return self.point is None or self.point[axis] == (self.center[axis] if self.center else 0)


def rows_of(spec: ExperimentSpec, doc: LocatedYaml, base: LocatedYaml, presets: Presets, name: str) -> list[Placed]:
    """Every row at the points of the axes, in the file's order. A row that is only quoted stands once.

    Args:
        base: the partial spec under all rows.

    Raises:
        SpecError: an axis is no field, has no values or one twice, is set by a row itself, or lacks the value that
            runs have without it while axes go one at a time.
    """
    _check_axes(spec, doc)
    only_axes = Row.model_construct(label="")
    written = _written(spec, doc, presets) or [Placed(only_axes, LocatedYaml({}), 0, None)]
    center = _center(spec, doc, base) if spec.one_at_a_time else None
    sizes = [len(values) for values in spec.axes.values()]
    count = (sum(sizes) if center else math.prod(sizes)) * sum(not placed.row.paper_only for placed in written)
    if count > MOST_ROWS:
        raise SpecError(
            f"{doc.location(('axes',)) or name}: axes: {' x '.join(map(str, sizes))} values give {count:,} rows, and {MOST_ROWS:,} are "
            "the most; give fewer values, one_at_a_time, or a search."
        )
    return [crossed for placed in written for crossed in _crossed(replace(placed, center=center), spec.axes, doc, name)]


def _center(spec: ExperimentSpec, doc: LocatedYaml, base: LocatedYaml) -> tuple[int, ...]:
    center = []
    for axis, values in spec.axes.items():
        found, schema = base.value, field_schema(spec.run_class, axis)
        for step in axis.split("."):
            found = found.get(step) if isinstance(found, dict) else None
        own = schema.get("default") if found is None else found
        if own not in values:
            raise SpecError(
                f"{doc.location(('axes', axis))}: axes.{axis}: with one_at_a_time, rows stay at the value that they have without the "
                f"axis, and that is {own!r}, which is not among its values: add it, or set one of them in `base`."
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
        texts = [_as_value(value) for value in values]
        for i, text in enumerate(texts):
            if text in texts[:i]:
                raise SpecError(
                    f"{doc.location(('axes', axis, i))}: axes.{axis}: the value {values[i]!r} stands twice; keep one."
                )


def _as_value(value: Any) -> object:
    """What tells a value from others: 1 and 1.0 are one value, 1 and true are two."""
    return float(value) if type(value) in (int, float) else repr(value)


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
    for point in _around(placed.center, axes) if placed.center else _product(axes):
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


def _product(axes: Axes) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(len(values)) for values in axes.values()))


def _around(center: tuple[int, ...], axes: Axes) -> list[tuple[int, ...]]:
    """The center and all points that differ from it on one axis, in the order of the whole product."""
    moved = (
        (*center[:axis], i, *center[axis + 1 :])
        for axis, values in enumerate(axes.values())
        for i in range(len(values))
    )
    return sorted(set(moved))


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
    return _joined(placed.row.label, _places(placed, axes, idle))


def _places(placed: Placed, axes: Axes, idle: set[int]) -> dict[str, str]:
    if placed.point is None:
        return {}
    kept = [
        (axis, values[i])
        for n, ((axis, values), i) in enumerate(zip(axes.items(), placed.point, strict=True))
        if n not in idle
    ]
    return {axis: _part(axis, value, axes) for axis, value in kept}


def _part(axis: str, value: Any, axes: Axes) -> str:
    return f"{axis_name(axis, axes)}={value}"


def _joined(label: str, places: Mapping[str, str]) -> str:
    return ", ".join([*([label] if label else []), *places.values()])


def variant_of(placed: Placed, runs: tuple[Run, ...], axes: Axes, idle: set[int], written: LocatedYaml) -> Variant:
    """A row with its runs, under the label that names its point on the axes."""
    places = _places(placed, axes, idle)
    label = _joined(placed.row.label, places)
    row = placed.row.model_copy(update={"label": label})
    return Variant(label, row, runs, tuple(axes), placed.row.label, places, written)


def variant_from(row: Row, runs: tuple[Run, ...], spec: ExperimentSpec) -> Variant:
    """A row of a record, whose label names its point on the axes: told apart again by the file's labels and values."""
    for own in sorted([written.label for written in spec.rows] or [""], key=len, reverse=True):
        if not row.label.startswith(own):
            continue
        places, rest = {}, row.label[len(own) :].removeprefix(", ") if own else row.label
        for axis, values in spec.axes.items():
            for part in sorted((_part(axis, value, spec.axes) for value in values), key=len, reverse=True):
                if rest == part or rest.startswith(f"{part}, "):
                    places[axis], rest = part, rest[len(part) :].removeprefix(", ")
                    break
        if not rest and row.label == _joined(own, places):
            return Variant(row.label, row, runs, tuple(spec.axes), own, places)
    return Variant(row.label, row, runs, tuple(spec.axes), row.label)


def told_of(rows: Sequence[Placed], axes: Axes, idle: Mapping[int, set[int]]) -> list[str]:
    """Notes for the user about rows that stand once although an axis has several values."""
    labels, names = {row.number: row.row.label for row in rows}, list(axes)
    return [
        f"{labels[number]}: stands once for all values of {names[axis]}, which changes nothing of it"
        for number, its in idle.items()
        for axis in sorted(its)
    ]

"""Sweeps: `--set` with a list for a field that holds one value. Every row is run with each of the list's values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from star.errors import SpecError
from star.spec.explain import field_schema
from star.spec.renames import BY_STAGE, renamed
from star.spec.run_base import Run
from star.spec.yamldoc import LocatedYaml, Path_, SourceLocation, nested, overlay, parse


@dataclass(frozen=True)
class Change:
    """A `path=value` of the command line."""

    text: str
    path: str
    doc: LocatedYaml
    values: tuple[Any, ...] | None
    """The values of a sweep; None if this is none."""

    @property
    def fields(self) -> dict[str, Any]:
        """Each field that it sets, a dotted path, and its value: a section may be given whole."""
        return dict(_leaves(self.doc.value, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from _leaves(one, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def parse_set(text: str, kind: type[Run]) -> Change:
    """Parse a `path=value` of the command line. A list is a sweep; for a field that takes a list, a list of lists is.

    Args:
        kind: the class of the runs.

    Raises:
        SpecError: the text is no `path=value`, or a run has no such field.
    """
    path, equals, value = text.partition("=")
    location = SourceLocation(f"--set {text}")
    if not equals or not path:
        raise SpecError(f"{location}: give it as path=value, such as optim.steps=200.")
    parsed = parse(value, str(location)).value if value.strip() else None
    if path.startswith("resources.") and path.removeprefix("resources.") in BY_STAGE and isinstance(parsed, dict):
        return Change(text, path, nested(tuple(path.split(".")), parsed, location), None)
    if path == "seeds":
        raise SpecError(f"{location}: seeds are no field of a run; give --seeds {value}.")
    if path.startswith("base."):
        raise SpecError(f"{location}: give the path within `base`: {path.removeprefix('base.')}={value}.")
    path = renamed(path)
    try:
        schema = field_schema(kind, path)
    except SpecError as error:
        raise SpecError(f"{location}: {error}.") from None
    takes_list = any(part.get("type") == "array" for part in schema.get("anyOf", [schema]))
    values = None
    if isinstance(parsed, list) and (not takes_list or (parsed and all(isinstance(one, list) for one in parsed))):
        values = tuple(parsed)
    return Change(text, path, nested(tuple(path.split(".")), parsed, location), values)


def changes_of(sets: Sequence[str], kind: type[Run]) -> list[Change]:
    """Parse all `path=value` of a command line.

    Raises:
        SpecError: as `parse_set`, or one field is given two values.
    """
    changes = [parse_set(text, kind) for text in sets]
    given: dict[str, Change] = {}
    for change in changes:
        for path, value in change.fields.items():
            before = given.setdefault(path, change)
            if before is not change and before.fields[path] != value:
                raise SpecError(
                    f"--set {change.text}: {path} is given twice, here and in --set {before.text}; keep one."
                )
    return [change for i, change in enumerate(changes) if change.fields not in [one.fields for one in changes[:i]]]


def swept(doc: LocatedYaml, sweeps: Sequence[Change]) -> tuple[LocatedYaml, list[str]]:
    """An experiment's file with sweeps as axes, and notes for the user about it.

    The table gets a column for each sweep. What is about the file's own rows is left out: its claims, the table's
    baseline and grid, comparisons (`against`) with their columns, and figures that name rows, as trends do.
    """
    if not sweeps or not isinstance(doc.value, dict):
        return doc, []
    for sweep in sweeps:
        doc = overlay(
            doc, nested(("axes", sweep.path), list(sweep.values or ()), SourceLocation(f"--set {sweep.text}"))
        )
    out = ["its claims"] if doc.value.get("claims") else []
    doc = _with(doc, ("claims",), [])
    compared = doc.value.get("against")
    lost: set[str] = set()
    if isinstance(compared, dict) and compared:
        doc, lost = _without_against(doc, compared)
        out += [f"against.{name}" for name in compared]
    if isinstance(table := doc.value.get("table"), dict):
        out += [f"table.{key}" for key in ("baseline", "grid") if table.get(key) is not None]
        doc = _without(doc, "table", ("baseline", "grid"))
        doc = _with_columns(doc, sweeps)
    if isinstance(figures := doc.value.get("figures"), list):
        named = [
            isinstance(one, dict)
            and bool(one.get("rows") or one.get("series") or one.get("kind") == "trend" or _shows(one, lost))
            for one in figures
        ]
        out += [f"the figure {one.get('name')}" for one, is_named in zip(figures, named, strict=True) if is_named]
        doc = _with(doc, ("figures",), [(one, i) for i, one in enumerate(figures) if not named[i]])
    told = f"each row is run with every value of {', '.join(sweep.path for sweep in sweeps)}"
    if doc.value.get("one_at_a_time") is True:
        told += ", the other axes at the value that rows have without them"
    return doc, [f"{told}; left out, for they are about the file's own rows: {', '.join(out)}" if out else told]


def _without_against(doc: LocatedYaml, compared: dict[str, Any]) -> tuple[LocatedYaml, set[str]]:
    """`doc` without its comparisons and the table's columns of them, and the titles of these columns."""
    doc = LocatedYaml({key: value for key, value in doc.value.items() if key != "against"}, doc.locations)
    table = doc.value.get("table")
    columns = table.get("columns") if isinstance(table, dict) else None
    if not isinstance(columns, list):
        return doc, set()
    of = [isinstance(column, dict) and str(column.get("metric")) in compared for column in columns]
    kept = [(column, i) for i, column in enumerate(columns) if not of[i]]
    lost = {str(column.get("title")) for column, compares in zip(columns, of, strict=True) if compares}
    return _with(doc, ("table", "columns"), kept), lost


def _shows(figure: dict[str, Any], titles: set[str]) -> bool:
    columns = figure.get("columns")
    named = [figure.get("column"), *(columns if isinstance(columns, list) else [])]
    return any(str(title) in titles for title in named)


def _with_columns(doc: LocatedYaml, sweeps: Sequence[Change]) -> LocatedYaml:
    """`doc` with a column for each swept field that no column shows yet, before the measured columns."""
    columns = doc.value["table"].get("columns")
    if not isinstance(columns, list) or not all(isinstance(column, dict) for column in columns):
        return doc
    known = [column.get("spec") for column in columns]
    paths = [sweep.path for sweep in sweeps if sweep.path not in known]
    if any(column.get("label") for column in columns):  # labels of rows name the swept values
        return doc
    names = [path.rsplit(".", 1)[-1].replace("_", " ") for path in paths]
    taken = [*names, *(column.get("title") for column in columns)]
    titles = [name if taken.count(name) == 1 else path for name, path in zip(names, paths, strict=True)]
    new = [({"title": title, "spec": path}, None) for title, path in zip(titles, paths, strict=True)]
    first = next((i for i, column in enumerate(columns) if "metric" in column), len(columns))
    old = [(column, i) for i, column in enumerate(columns)]
    return _with(doc, ("table", "columns"), [*old[:first], *new, *old[first:]])


def _with(doc: LocatedYaml, path: Path_, entries: Sequence[tuple[Any, int | None]]) -> LocatedYaml:
    """`doc` with a new list at `path`: values, each with its index in the former list, whose locations it keeps."""
    size = len(path)
    locations = {p: location for p, location in doc.locations.items() if p[:size] != path or len(p) == size}
    for i, (_, before) in enumerate(entries):
        locations |= {
            (*path, i, *p[size + 1 :]): m for p, m in doc.locations.items() if p[: size + 1] == (*path, before)
        }
    return LocatedYaml(overlay(doc, nested(path, [value for value, _ in entries], SourceLocation(""))).value, locations)


def _without(doc: LocatedYaml, section: str, keys: Sequence[str]) -> LocatedYaml:
    kept = {key: value for key, value in doc.value[section].items() if key not in keys}
    return LocatedYaml(doc.value | {section: kept}, doc.locations)

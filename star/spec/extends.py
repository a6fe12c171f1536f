"""Reads a file that extends another: its values are laid over those of the other file.

Mappings are merged key by key, everything else is replaced. Lists under `add:` are appended to the other file's lists.
Anchors of the other file can be used in this one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from star.errors import SpecError
from star.spec.base import at_home
from star.spec.yamldoc import LocatedYaml, Path_, SourceLocation, nested, overlay, read, text_at_top, text_of

EXTENDS, ADD = "extends", "add"
NAMES = ("experiment", "search")
"""Keys under which a file has its own name."""


@dataclass(frozen=True)
class Extended:
    """A file, merged over the file that it extends."""

    doc: LocatedYaml
    folders: tuple[Path, ...]
    """Folders of this file and of the files that it extends."""


def read_extended(path: Path) -> Extended:
    """Read the file at `path`, merged over the file that it extends.

    Raises:
        SpecError: a file cannot be read or extends itself, has no name of its own although the other file has one, or
            adds to what is no list.
    """
    return _read(path, ())


def _read(path: Path, children: tuple[Path, ...]) -> Extended:
    given = text_at_top(text_of(path), EXTENDS)
    parent = None if given is None else _parent(path, SourceLocation(str(path), given[1]), given[0], children)
    doc = read(path, known=parent.doc.anchors if parent else None)
    own = doc.value
    if not isinstance(own, dict):
        return Extended(doc, (path.parent,))
    if parent is None:
        for key in (EXTENDS, ADD):
            if key in own:
                wanted = "the path of a file" if key == EXTENDS else "a file that `extends` another"
                raise SpecError(f"{doc.location((key,))}: {key}: needs {wanted}; give it, or leave `{key}` out.")
        return Extended(doc, (path.parent,))
    if not children and not any(name in own for name in NAMES) and any(name in parent.doc.value for name in NAMES):
        raise SpecError(
            f"{doc.location((EXTENDS,))}: a file that extends another has a name of its own; give "
            f"`{next(name for name in NAMES if name in parent.doc.value)}: NAME`."
        )
    patch = LocatedYaml({key: value for key, value in own.items() if key not in (EXTENDS, ADD)}, doc.locations)
    whole = overlay(parent.doc, patch)
    whole = replace(whole, value=_without_nulls(whole.value, patch.value, parent.doc.value))
    if ADD in own:
        whole = _added(whole, doc.at(ADD), ())
    whole = replace(
        whole, locations={p: location for p, location in whole.locations.items() if p[:1] not in ((EXTENDS,), (ADD,))}
    )
    return Extended(replace(whole, anchors=doc.anchors), (path.parent, *parent.folders))


OF_RUNS = (("base",), ("pruner", "spec"))
"""Where null is a value of a run's field."""


def _without_nulls(whole: dict[str, Any], own: dict[str, Any], other: dict[str, Any], at: Path_ = ()) -> dict[str, Any]:
    """`whole` without what the other file has and `own` says null for, but OF_RUNS."""
    kept = {}
    for key, value in whole.items():
        if key in own and key in other and (*at, key) not in OF_RUNS:
            if own[key] is None:
                continue
            if isinstance(own[key], dict) and isinstance(other[key], dict):
                value = _without_nulls(value, own[key], other[key], (*at, key))
        kept[key] = value
    return kept


def _parent(path: Path, location: SourceLocation, given: str, children: tuple[Path, ...]) -> Extended:
    try:
        file = path.parent / at_home(given)
    except ValueError as error:
        raise SpecError(f"{location}: extends: {error}.") from None
    if not file.is_file():
        raise SpecError(
            f"{location}: extends: {given!r} is no file beside {path.name}; give a path from {path.parent.resolve()}."
        )
    line = (*children, path)
    if file.resolve() in [one.resolve() for one in line]:
        raise SpecError(
            f"{location}: extends: the files extend each other in a circle: {' -> '.join(map(str, (*line, file)))}."
        )
    found = _read(file, line)
    if not isinstance(found.doc.value, dict):
        raise SpecError(f"{location}: extends: {file} holds no mapping of keys to values.")
    found = replace(found, doc=_with_scripts_moved(found.doc, file.parent, path.parent))
    found = replace(found, doc=_with_plugins_moved(found.doc, file.parent, path.parent))
    # the path of published values is relative to the other file; `reference` is the former name of this key
    for key in ("published_values", "reference"):
        values = found.doc.value.get(key)
        if isinstance(values, str):
            place = os.path.relpath(file.parent / values, path.parent)
            moved = overlay(found.doc, nested((key,), place, found.doc.location((key,)) or location))
            found = replace(found, doc=replace(moved, anchors=found.doc.anchors))
    return found


def _with_scripts_moved(doc: LocatedYaml, there: Path, here: Path) -> LocatedYaml:
    """`doc` with paths of its declared stages (`folder`, `reads`) made relative to `here` instead of `there`."""
    declared = doc.value.get("stages")
    if not isinstance(declared, dict) or there.resolve() == here.resolve():
        return doc
    for name, script in declared.items():
        if not isinstance(script, dict):
            continue
        places: dict[Path_, str] = {("folder",): script.get("folder") or ""}
        if isinstance(script.get("reads"), dict):
            places |= {("reads", one): place for one, place in script["reads"].items() if isinstance(place, str)}
        for steps, place in places.items():
            where: Path_ = ("stages", name, *steps)
            location = doc.location(where) or SourceLocation(str(there))
            if not place.startswith(("~", "/")):
                doc = replace(
                    overlay(doc, nested(where, os.path.relpath(there / place, here), location)), anchors=doc.anchors
                )
    return doc


def _with_plugins_moved(doc: LocatedYaml, there: Path, here: Path) -> LocatedYaml:
    """`doc` with paths of plugin files made relative to `here` instead of `there`."""
    names = doc.value.get("plugins")
    if not isinstance(names, list) or there.resolve() == here.resolve():
        return doc
    moved = [
        os.path.relpath(there / name, here)
        if isinstance(name, str) and name.endswith(".py") and not name.startswith(("~", "/"))
        else name
        for name in names
    ]
    return replace(doc, value={**doc.value, "plugins": moved})


def _added(doc: LocatedYaml, more: LocatedYaml, path: Path_) -> LocatedYaml:
    """`doc` with the lists of `more` appended to its own."""
    where = ".".join(map(str, (ADD, *path)))
    if not isinstance(more.value, dict):
        raise SpecError(f"{more.location(())}: {where}: adds to lists; give it as `{ADD}: {{rows: [...]}}`.")
    for key, value in more.value.items():
        place, there = (*path, key), _value(doc, (*path, key))
        if isinstance(value, dict) and isinstance(there, dict):
            doc = _added(doc, more.at(key), place)
            continue
        if not isinstance(value, list) or not isinstance(there, list | None):
            raise SpecError(
                f"{more.location((key,))}: {where}.{key}: adds a list to a list; say {'.'.join(map(str, place))} by itself."
            )
        if there is None:
            _refuse_lost_default(doc, place, more.location((key,)))
        kept = {p: location for p, location in doc.locations.items() if p[: len(place)] == place}
        behind = {
            (*place, len(there or ()) + int(p[1]), *p[2:]): location
            for p, location in more.locations.items()
            if p[:1] == (key,) and len(p) > 1
        }
        grown = nested(place, [*(there or ()), *value], more.location((key,)) or SourceLocation(where))
        doc = overlay(doc, LocatedYaml(grown.value, {**grown.locations, **doc.locations, **kept, **behind}))
    return doc


def _refuse_lost_default(doc: LocatedYaml, place: Path_, location: SourceLocation | None) -> None:
    """Check that what is added stands in place of nothing that holds where the other file says nothing."""
    from star.spec.experiment import ExperimentSpec

    name = str(place[0])
    field = ExperimentSpec.model_fields.get(name) if len(place) == 1 and "experiment" in doc.value else None
    default = field.get_default(call_default_factory=True) if field else None
    if isinstance(default, list) and default:
        raise SpecError(
            f"{location}: {ADD}.{name}: the other file has none, and its default, {default}, would be lost; write all under `{name}:`."
        )
    if name == "rows" and len(place) == 1 and doc.value.get("axes"):
        raise SpecError(
            f"{location}: {ADD}.rows: the other file has axes and no rows, and its own would be lost; write `rows:` with one for them, "
            "such as `{label: base}`, before yours."
        )


def _value(doc: LocatedYaml, path: Path_) -> Any:
    found = doc.value
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    return found

"""YAML that remembers where each value was written, so that an error can name file and line.

The scalars follow YAML 1.2's core schema: `1e-4` is a number, `on` and `no` are text, and no date is ever guessed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from star.errors import SpecError

ANCHORS = "anchors"
"""A key at the top of any file under which shared values may be written; its own value is ignored."""
MOST = 2**63 - 1
"""Largest number of a file: more than anything is counted in, and less than what overflows."""
LARGE = "is beyond any number here; give one below 2**63"
MOST_VALUES = 200_000
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
"""Most values of one file: a few kilobytes of aliases can stand for billions."""
Path_ = tuple[str | int, ...]


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the implicit types of YAML 1.2 in place of those of 1.1, and with anchors of other files."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def __init__(self, text: str, name: str, known: Mapping[str, yaml.Node]) -> None:
        super().__init__(text)
        self.name = name  # PyYAML's marks of nodes take it from here
        self.known = known
        self.found: dict[str, yaml.Node] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """Compose a node as PyYAML does, but an alias may also name an anchor of another file."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        name = event.anchor if isinstance(event, yaml.AliasEvent) else None
        if name is not None and name not in self.anchors and name in self.known:
            self.get_event()  # type: ignore[no-untyped-call]
            return self.known[name]
        node = super().compose_node(parent, index)
        self.found.update(self.anchors)  # which PyYAML forgets at the document's end
        return node


def _constructor(pattern: str, read_scalar: Callable[[str], Any]) -> Callable[[yaml.SafeLoader, yaml.ScalarNode], Any]:
    def read(_loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
        if not re.fullmatch(pattern, node.value):  # a tag was written, such as `!!bool yes`
            raise ValueError(node.value)
        value = read_scalar(node.value)
        if type(value) is int and abs(value) > MOST:
            raise ValueError(LARGE)
        return value

    return read


_SCALARS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+", int),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda text: float(re.sub(r"\.(inf|nan)", r"\1", text.lower())),
    ),
}
for _name, (_pattern, _read) in _SCALARS.items():
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), None)
    _CoreLoader.add_constructor(f"tag:yaml.org,2002:{_name}", _constructor(_pattern, _read))


@dataclass(frozen=True)
class SourceLocation:
    """Where a value was written: a file and its line, or an option of the command line (line 0)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class LocatedYaml:
    """A plain value (dicts, lists, scalars) and the source location of each path in it."""

    value: Any
    locations: dict[Path_, SourceLocation] = field(default_factory=dict)
    anchors: Mapping[str, yaml.Node] = field(default_factory=dict)
    """Anchors of the file that was read, and those of other files that it could name."""

    def at(self, *path: str | int) -> LocatedYaml:
        """The sub-document at `path`, which must exist."""
        value = self.value
        for step in path:
            value = value[step]
        size = len(path)
        return LocatedYaml(value, {p[size:]: location for p, location in self.locations.items() if p[:size] == path})

    def location(self, path: Path_) -> SourceLocation | None:
        """The source location of `path` or of its nearest parent that has one; None if none has."""
        for size in range(len(path), -1, -1):
            if path[:size] in self.locations:
                return self.locations[path[:size]]
        return None


def read(path: Path, shown: str | None = None, known: Mapping[str, yaml.Node] | None = None) -> LocatedYaml:
    """Parse one YAML file.

    Args:
        known: anchors of other files that this one may name.

    Raises:
        SpecError: unreadable, not YAML, a key written twice, or a value that is no plain data.
    """
    return parse(text_of(path, shown), shown or str(path), known)


def text_of(path: Path, shown: str | None = None) -> str:
    """The text of one file.

    Raises:
        SpecError: unreadable, or no UTF-8 text.
    """
    name = shown or str(path)
    try:
        if path.exists() and not path.is_file():
            raise SpecError(f"{name}: is {'a folder' if path.is_dir() else 'no regular file'}; give a YAML file.")
        content = path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"{name}: there is no such file{_near(path) or '.'}") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SpecError(f"{name}:{line}: cannot be read: it is not UTF-8 text; save it as that.") from None


def _near(path: Path) -> str:
    """`; did you mean X?` if there is a YAML file of that name with its ending or folder, or of one like it there or in experiments/."""
    exact = (
        f"experiments/{path.name}",
        f"{path}.yaml",
        f"experiments/{path.name}.yaml",
        str(path.with_suffix(".yaml")),
    )
    for found in filter(os.path.isfile, exact):
        return f"; did you mean {found}?"
    for folder in (path.parent, Path("experiments")):
        files = {one.stem: one for one in sorted(folder.glob("*.y*ml"))} if folder.is_dir() else {}
        close = difflib.get_close_matches(path.stem, files, n=1, cutoff=0.6)
        if close:
            return f"; did you mean {files[close[0]]}?"
    return ""


def parse(text: str, name: str, known: Mapping[str, yaml.Node] | None = None) -> LocatedYaml:
    """Parse YAML text; `name` stands for the file in locations and errors.

    Raises:
        SpecError: not YAML, empty, a key written twice, or a value that is no plain data.
    """
    try:
        _refuse_odd_letters(text, name)
        loader = _CoreLoader(text, name, known or {})
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(
            f"{name}:{line}: not valid YAML: {error.problem or error}{_begun(error, line)}{_unquoted(error)}."
        ) from None
    except yaml.YAMLError as error:
        raise SpecError(f"{name}: not valid YAML: {str(error).splitlines()[0]}.") from None
    except RecursionError:
        raise SpecError(f"{name}: not valid YAML: nested too deep.") from None
    if node is None:
        raise SpecError(f"{name}:1: the file is empty.")
    locations: dict[Path_, SourceLocation] = {}
    value = _build(loader, node, (), locations, ())
    if isinstance(value, dict) and value.pop(ANCHORS, None) is not None:
        locations = {path: location for path, location in locations.items() if path[:1] != (ANCHORS,)}
    return LocatedYaml(value, locations, {**loader.known, **loader.found})


def _begun(error: yaml.MarkedYAMLError, line: int) -> str:
    """Where the bracket or quotation mark stands that is still open, if on an earlier line: often that is the mistake."""
    mark, context = error.context_mark, error.context or ""
    what = "bracket" if "flow" in context else "quotation mark" if "quoted" in context else None
    if mark is None or what is None or mark.line + 1 == line:
        return ""
    return f"; the {what} of line {mark.line + 1}, column {mark.column + 1}, is open there"


def _unquoted(error: yaml.MarkedYAMLError) -> str:
    """What to do about a text that wants quotes, as `{metric: score/{extractor}/...}` and `title: a: b` do, or about a tab."""
    said = error.problem or ""
    if "got '{'" in said:
        return "; a text that holds a brace wants quotes"
    if "\\t" in said:
        return "; indent with spaces"
    wants = "mapping values are not allowed" in said or "cannot start any token" in said
    return "; a text that holds `: `, or begins with such a sign, wants quotes" if wants else ""


def text_at_top(text: str, key: str) -> tuple[str, int] | None:
    """(text, line) of a key at the top of a file; None if it has no text there. The rest of the file may be wrong."""
    depth = nodes = 0
    is_wanted = False
    with suppress(yaml.YAMLError):
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth == 1 and isinstance(event, yaml.ScalarEvent):
                if is_wanted:
                    return event.value, event.start_mark.line + 1 if event.start_mark else 1
                is_wanted = nodes % 2 == 0 and event.value == key
            elif is_wanted:  # a list or a mapping
                return None
            if depth == 1 and isinstance(event, yaml.ScalarEvent | yaml.AliasEvent | yaml.CollectionEndEvent):
                nodes += 1
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
    return None


def _refuse_odd_letters(text: str, name: str) -> None:
    """Refuse control characters, which YAML does not allow, with their line, which PyYAML's own error lacks."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found is not None:
        line = text[: found.start()].count("\n") + 1
        raise SpecError(
            f"{name}:{line}: not valid YAML: the character U+{ord(found[0]):04X} may not stand in a file; remove it."
        )


def _build(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    path: Path_,
    locations: dict[Path_, SourceLocation],
    parents: tuple[int, ...],
) -> Any:
    name, line = node.start_mark.name, node.start_mark.line + 1
    if len(locations) > MOST_VALUES:
        raise SpecError(
            f"{name}:{line}: holds more than {MOST_VALUES:,} values, aliases counted as often as they are used."
        )
    locations[path] = SourceLocation(name, line)
    if id(node) in parents:
        raise SpecError(f"{name}:{line}: an anchor that contains itself.")
    inside = (*parents, id(node))
    if isinstance(node, yaml.CollectionNode) and node.tag not in PLAIN_TAGS:
        raise SpecError(
            f"{name}:{line}: {_dotted(path) or 'the file'}: the tag {node.tag!r} means nothing here; remove it."
        )
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, child, (*path, i), locations, inside) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, child in node.value:
            at = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(f"{name}:{at}: a key must be plain text.")
            key = key_node.value
            if key == "<<":
                raise SpecError(
                    f"{name}:{at}: {_dotted((*path, key))}: merge keys are no part of YAML 1.2 and are not read; use a whole value "
                    f"(`*name`, anchored under a top-level `{ANCHORS}:`), or presets of the profile with `use:`."
                )
            if key in mapping:
                raise SpecError(f"{name}:{at}: {_dotted((*path, key))} is written twice; keep one.")
            mapping[key] = _build(loader, child, (*path, key), locations, inside)
            locations[(*path, key)] = SourceLocation(name, at)
        return mapping
    try:
        value = loader.construct_object(node)
        if isinstance(value, str):
            value.encode()  # a lone surrogate, such as "\ud800", is no text
        return value
    except (yaml.YAMLError, ValueError) as error:
        why = LARGE if str(error) == LARGE else f"with tag {node.tag!r} is no plain value"
        raise SpecError(f"{name}:{line}: {_dotted(path) or 'the file'}: {str(node.value)[:40]!r} {why}.") from None


class _CoreDumper(yaml.SafeDumper):
    """Quotes text that `_CoreLoader` would read as another type."""

    yaml_implicit_resolvers = _CoreLoader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value that is in two places twice, without an alias."""
        del data
        return True


def dump(value: Any) -> str:
    """YAML text that `parse` reads as `value`."""
    return yaml.dump(value, Dumper=_CoreDumper, sort_keys=False, allow_unicode=True, width=120)


def overlay(base: LocatedYaml, patch: LocatedYaml) -> LocatedYaml:
    """`patch` over `base`: mappings merge key by key, everything else is replaced; locations follow the values."""
    locations = dict(base.locations)
    value = _merge(base.value, patch.value, (), locations)
    locations.update(patch.locations)
    return LocatedYaml(value, locations)


def _merge(base: Any, patch: Any, path: Path_, locations: dict[Path_, SourceLocation]) -> Any:
    if not (isinstance(base, dict) and isinstance(patch, dict)):
        for stale in [p for p in locations if p[: len(path)] == path and len(p) > len(path)]:
            del locations[stale]
        return patch
    merged = dict(base)
    for key, value in patch.items():
        merged[key] = _merge(base[key], value, (*path, key), locations) if key in base else value
    return merged


def nested(path: Path_, value: Any, location: SourceLocation) -> LocatedYaml:
    """A document that holds one value at `path`."""
    whole: Any = value
    for step in reversed(path):
        whole = {step: whole}
    return LocatedYaml(whole, {path[:size]: location for size in range(1, len(path) + 1)})


def _dotted(path: Path_) -> str:
    return ".".join(str(step) for step in path)

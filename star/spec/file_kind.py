"""Which kind of file a YAML file is: an experiment, a search, or a profile, which neither command runs."""

from __future__ import annotations

from pathlib import Path

from star.errors import SpecError
from star.spec.extends import Extended, read_extended
from star.spec.yamldoc import LocatedYaml

COMMANDS = {"experiment": "run", "search": "search"}
"""Key under which a file has its name -> the command that takes such files."""


def is_search(doc: LocatedYaml) -> bool:
    """Whether a file describes a search and not an experiment."""
    return isinstance(doc.value, dict) and "search" in doc.value


def read_as(kind: str, path: Path) -> Extended:
    """Read the file at `path`, which is to be an `experiment` or a `search`, merged over the file that it extends.

    Raises:
        SpecError: it cannot be read, or is of another kind; the message says which command takes it.
    """
    extended = read_extended(path)
    doc, other = extended.doc, "experiment" if kind == "search" else "search"
    if not isinstance(doc.value, dict):
        raise SpecError(f"{path}:1: holds no mapping of keys to values; such a file begins with `{kind}: NAME`.")
    if other in doc.value:
        location = doc.location((other,))
        if kind in doc.value:
            raise SpecError(
                f"{location}: the file has both `experiment` and `search`; keep one, and the other in a file of its own."
            )
        what = "a search, not an experiment" if other == "search" else "an experiment, not a search"
        raise SpecError(f"{location}: this is {what}; `star-exp {COMMANDS[other]} {path}` runs it.")
    if kind not in doc.value and "presets" in doc.value:
        raise SpecError(
            f"{path}: this is a profile, at which experiments run: `star-exp {COMMANDS[kind]} FILE --profile {path.stem}`."
        )
    return extended

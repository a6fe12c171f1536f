"""Former places of what scripts and tests of users import: served for one version, with a warning that says the place now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

from star.spec.builtin import builtin_stages


def moved(module: str, others: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose content has moved.

    Args:
        module: its name.
        others: name -> `module:name` of what is no section of a run; those of sections are known.
    """

    def find(name: str) -> Any:
        sections = {
            place.rpartition(":")[2]: place for one in builtin_stages().values() for place in one.config.values()
        }
        place = {**sections, **(others or {})}.get(name)
        if place is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        now = place.partition(":")[0]
        warnings.warn(f"{module}.{name} is {now}.{name} now; the next version has it there alone", stacklevel=2)
        return resolve_name(place)

    return find

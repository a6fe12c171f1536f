"""The former place of the sections of a run, for files of this version's users; they are in `star.pipeline.config` now."""

from __future__ import annotations

import warnings
from pkgutil import resolve_name
from typing import Any

from star.spec.builtin import builtin_stages


def __getattr__(name: str) -> Any:
    places = [place for stage in builtin_stages().values() for place in stage.config.values()]
    found = next((place for place in places if place.endswith(f":{name}")), None)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = found.partition(":")[0]
    warnings.warn(
        f"star.spec.sections.{name} is {module}.{name} now; the next version has it there alone", stacklevel=2
    )
    return resolve_name(found)

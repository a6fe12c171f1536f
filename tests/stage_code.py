"""The code of every built-in stage, by the stage's name."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

from star.spec.builtin import builtin_stages
from star.stages.context import Context, Result

CODE: dict[str, Callable[[Context], Result]] = {
    name: resolve_name(str(stage.run)) for name, stage in builtin_stages().items()
}

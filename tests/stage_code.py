"""The code of every built-in stage, by the stage's name."""

from __future__ import annotations

from collections.abc import Callable

from star.spec.builtin import builtin_stages, reference
from star.stages.context import Context, Result

CODE: dict[str, Callable[[Context], Result]] = {
    name: reference(str(stage.run)) for name, stage in builtin_stages().items()
}

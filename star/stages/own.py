"""A plugin's stage, wrapped to be called like a built-in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import index
from pathlib import Path
from typing import cast

from star.errors import DataError
from star.plugin import Stage
from star.spec.graph import needed_of
from star.spec.plugin_parts import Plugin
from star.spec.plugins import part_of
from star.spec.run_base import Run
from star.spec.scripts import MOST_STEPS
from star.stages.context import Context, Result, job_of


def own_stage(spec: Run, name: str, folders: Mapping[str, Path]) -> Callable[[Context], Result]:
    """The function that runs a plugin's stage `name`, and checks what it records, returns and writes.

    Args:
        folders: digest of the plugin -> the copy of it to import.
    """
    plugins: Mapping[str, Plugin] = getattr(spec, "plugins", {})
    plugin = next(one for one in plugins.values() if name in one.stages)
    found = part_of(plugin, folders[plugin.digest], name)
    stage, declared = cast(Stage, found()), plugin.stages[name]
    config = found.config.model_validate(getattr(spec, name).model_dump(mode="json"))
    before = needed_of(declared.after, spec.pipeline)
    sections = {section for one in before for section in spec.pipeline[one].sections}

    def run(ctx: Context) -> Result:
        def record(step: int, values: Mapping[str, float]) -> None:
            unknown = [one for one in values if one not in declared.curves]
            if unknown:
                raise DataError(f"{name}: recorded {unknown[0]}, and declares curves = {dict(declared.curves)}.")
            try:
                at, numbers = index(step), {one: float(value) for one, value in values.items()}
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{name}: job.record({step!r}, ...): {error}; give a whole number and numbers by name."
                ) from None
            if not 0 <= at < MOST_STEPS:
                raise DataError(f"{name}: job.record({step!r}, ...): a step is a whole number from 0, below 2^63.")
            ctx.record(at, numbers)

        seen = {one: getattr(spec, one) for one in sections if one != "seed"}
        try:
            result = stage.run(config, job_of(ctx, spec.seed if declared.uses_seed else None, seen, record))
        except SystemExit as error:
            raise RuntimeError(
                f"{name}: its code called sys.exit({error.code!r}); raise an error, or return the results"
            ) from error
        if not isinstance(result, Mapping):
            raise DataError(
                f"{name}: run returned {type(result).__name__}; return a number for each of {list(declared.results)}, by name."
            )
        if set(result) != set(declared.results):
            raise DataError(
                f"{name}: returned {', '.join(sorted(map(str, result))) or 'nothing'}, and declares results = {list(declared.results)}."
            )
        lacking = [file for file in declared.attach if not (ctx.out / file).is_file()]
        if lacking:
            raise DataError(f"{name}: declares attach = {list(declared.attach)}, and left no {lacking[0]} in job.out.")
        return {one: _number(name, one, result[one]) for one in declared.results}

    return run


def _number(stage: str, name: str, value: object) -> float:
    """A result as a float: of a Python, NumPy or torch number, and of nothing that only looks like one."""
    try:
        if isinstance(value, str | bool):
            raise TypeError
        return float(value)  # type: ignore[arg-type]  # whatever cannot be converted raises
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise DataError(f"{stage}: returned {name} = {value!r}, which is no number; return one.") from None

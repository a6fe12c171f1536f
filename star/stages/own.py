"""A plugin's stage, wrapped to be called like a built-in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from star.errors import DataError
from star.plugin import Stage
from star.spec.graph import needed_of
from star.spec.plugin_parts import Plugin
from star.spec.plugins import part_of
from star.spec.run_base import Run
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
            ctx.record(step, values)

        seen = {one: getattr(spec, one) for one in sections if one != "seed"}
        result = stage.run(config, job_of(ctx, spec.seed if declared.uses_seed else None, seen, record))
        if not isinstance(result, Mapping):
            raise DataError(
                f"{name}: run returned {type(result).__name__}; return a number for each of {list(declared.results)}, by name."
            )
        if set(result) != set(declared.results):
            raise DataError(
                f"{name}: returned {', '.join(sorted(result)) or 'nothing'}, and declares results = {list(declared.results)}."
            )
        lacking = [file for file in declared.attach if not (ctx.out / file).is_file()]
        if lacking:
            raise DataError(f"{name}: declares attach = {list(declared.attach)}, and left no {lacking[0]} in job.out.")
        return {one: float(result[one]) for one in declared.results}

    return run

"""A stage of a plugin, called as the platform's own are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from star.errors import DataError
from star.plugin import Stage
from star.spec.graph import needed_of
from star.spec.plugin_code import import_from
from star.spec.plugin_parts import Plugin
from star.spec.plugins import parts_in
from star.spec.run_base import Run
from star.stages.context import Context, Result, job_of


def own_stage(spec: Run, name: str, folders: Mapping[str, Path]) -> Callable[[Context], Result]:
    """The code of a stage of a plugin.

    Args:
        folders: digest of the plugin -> the copy of it to import.
    """
    plugins: Mapping[str, Plugin] = getattr(spec, "plugins", {})
    plugin = next(one for one in plugins.values() if name in one.stages)
    found = parts_in(import_from(folders[plugin.digest], plugin.module, plugin.digest, plugin.module))[name]
    stage, declared = cast(Stage, found()), plugin.stages[name]
    config = found.config.model_validate(getattr(spec, name).model_dump(mode="json"))
    before = needed_of(declared.after, spec.pipeline)
    sections = {section for one in before for section in spec.pipeline[one].sections}

    def run(ctx: Context) -> Result:
        job = job_of(
            ctx,
            spec.seed if declared.uses_seed else None,
            {one: getattr(spec, one) for one in sections if one != "seed"},
        )
        result = dict(stage.run(config, job))
        if set(result) != set(declared.results):
            raise DataError(
                f"{name}: returned {', '.join(sorted(result)) or 'nothing'}, and declares results = {list(declared.results)}."
            )
        return {one: float(result[one]) for one in declared.results}

    return run

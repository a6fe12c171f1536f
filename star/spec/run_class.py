"""The class of a run: the built-in pipeline's, one with sections for the user's own stages too, or with only these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field, create_model

from star.spec.base import Seed
from star.spec.builtin import builtin_runs, builtin_stages
from star.spec.graph import Stage, needed_of
from star.spec.own_stages import own_stages, with_curves, with_inputs
from star.spec.plugin_parts import Plugin
from star.spec.plugins import is_imported, stage_configs
from star.spec.resources import Resources, resources_class
from star.spec.run_base import Run, Training
from star.spec.scripts import ScriptStage, scripts_of


class ScriptRun(Run):
    """A run of the user's own stages only."""

    if not TYPE_CHECKING:
        resources: Resources = Resources()
    seed: Seed = 0
    needs_profile = False

    @property
    def training(self) -> Training | None:
        """The first of its commands that declares a `length`; None if none does."""
        for name, script in scripts_of(self).items():
            if script.length is not None:
                steps = int(getattr(getattr(self, name), script.length))
                return Training(name, f"{name}.{script.length}", steps, steps)
        return None


def run_class(
    declared: Mapping[str, ScriptStage], full: bool = True, plugins: Mapping[str, Plugin] | None = None
) -> type[Run]:
    """The class of the runs of an experiment.

    Args:
        declared: the commands that it declares under `stages`.
        full: whether its runs have the built-in pipeline's stages too.
        plugins: the plugins that it names under `plugins`.
    """
    plugins = plugins or {}
    if not declared and not plugins:
        return builtin_runs().plain
    scripts = tuple((name, _without_places(script).model_dump_json()) for name, script in declared.items())
    own = tuple((name, plugin.model_copy(update={"folder": ""}).model_dump_json()) for name, plugin in plugins.items())
    return _made(scripts, full, own, is_imported(plugins))


def parse_run(values: Mapping[str, Any]) -> Run:
    """Parse a recorded run; its class follows from the stages and plugins that it declares.

    Raises:
        pydantic.ValidationError: this version has no such run.
    """
    declared = {name: ScriptStage.model_validate(value) for name, value in (values.get("stages") or {}).items()}
    plugins = {name: Plugin.model_validate(value) for name, value in (values.get("plugins") or {}).items()}
    sections = {name for stage in builtin_stages().values() for name in stage.config}
    full = not (declared or plugins) or not sections.isdisjoint(values)
    return run_class(declared, full, plugins).model_validate(values)


def _without_places(script: ScriptStage) -> ScriptStage:
    """The script without paths of its files and data, which do not change the class."""
    return script.model_copy(update={"folder": "", "reads": dict.fromkeys(script.reads, "")})


@cache
def _made(
    scripts: tuple[tuple[str, str], ...], full: bool, own: tuple[tuple[str, str], ...], imported: bool
) -> type[Run]:
    del imported  # only part of the cache's key: a class made before the code was imported checks nothing
    declared = {name: ScriptStage.model_validate(json.loads(text)) for name, text in scripts}
    plugins = {name: Plugin.model_validate_json(text) for name, text in own}
    stages = own_stages(declared, plugins)
    sections = {name: script.section(name) for name, script in declared.items()} | stage_configs(plugins)
    parts = {name: own for plugin in plugins.values() for name, own in plugin.stages.items()}
    builtin = builtin_runs()
    base: type[Run] = (builtin.with_plugins() if plugins else builtin.plain) if full else ScriptRun
    kind: type[Resources] = builtin.resources if full else Resources
    resources = resources_class(kind, {**base.declared_stages, **stages})

    class OwnRun(base):  # type: ignore[valid-type, misc]
        @property
        def pipeline(self) -> Mapping[str, Stage]:
            found = with_curves(super().pipeline, plugins)
            for name in needed_of(stages, stages):  # with given images there is no training, and no stage after it
                if name in stages and all(before in found for before in stages[name].inputs):
                    found[name] = stages[name]
            return with_inputs(found, self.read_by_terms) if self.read_by_terms else found

        def section(self, name: str) -> Any:
            return parts[name].key_of(getattr(self, name)) if name in parts else super().section(name)

    fields: dict[str, Any] = {"resources": (resources, resources())}
    if declared:
        fields["stages"] = (dict[str, ScriptStage], ...)
    if plugins:
        fields["plugins"] = (dict[str, Plugin], ...)
    if plugins and full:
        fields |= builtin.fields_of(plugins)
    for name, section in sections.items():
        is_whole = all(not field.is_required() for field in section.model_fields.values())
        # an error names the field that lacks a value, not its section
        fields[name] = (section, section() if is_whole else Field(default_factory=dict, validate_default=True))
    return cast("type[Run]", create_model(base.__name__, __base__=OwnRun, __doc__=base.__doc__, **fields))

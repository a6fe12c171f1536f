"""The class of a run: ST-AR's, one with sections for stages of the user's own beside it, or one that has nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field, create_model, model_validator

from star.spec.base import FieldError, Section
from star.spec.graph import STAGES, Stage, needed_of
from star.spec.own_stages import own_stages, with_curves
from star.spec.plugin_parts import Plugin
from star.spec.plugins import active, check_term, data_class, is_imported, section_of, stage_configs, tokenizer_class
from star.spec.resources import Resources, StarResources, resources_class
from star.spec.run import RunSpec
from star.spec.run_base import Run, Seed, Training
from star.spec.scripts import ScriptStage, scripts_of
from star.spec.setting import Setting


class ScriptRun(Run):
    """A run of stages of the user's own alone."""

    if not TYPE_CHECKING:
        resources: Resources = Resources()
    seed: Seed = 0

    @property
    def pipeline(self) -> Mapping[str, Stage]:
        """None of its own: those that are declared."""
        return {}

    @property
    def training(self) -> Training | None:
        """The first of its commands that says by which parameter it is shorter."""
        for name, script in scripts_of(self).items():
            if script.length is not None:
                return Training(name, f"{name}.{script.length}", getattr(getattr(self, name), script.length))
        return None


class RunWithPlugins(RunSpec):
    """A run of ST-AR that may use loss terms, data sets and tokenizers of plugins."""

    if TYPE_CHECKING:
        plugins: dict[str, Plugin]
        terms: Section

    @property
    def has_teacher(self) -> bool:
        """ST-AR's own, or one that a term reads."""
        return super().has_teacher or any(plugin.terms[name].teacher for name, plugin, _ in self.own_terms)

    @property
    def own_terms(self) -> list[tuple[str, Plugin, dict[str, Any]]]:
        """Name, plugin and fields of each term of a plugin that it is trained on."""
        return list(active(self.terms, self.plugins))

    def has(self, path: str) -> bool:
        """A term whose weight is 0 has no other field."""
        section, _, field = path.partition(".")
        name, _, field = field.partition(".")
        return section != "terms" or field == "weight" or any(name == term for term, _, _ in self.own_terms)

    @property
    def source_plugin(self) -> Plugin | None:
        """That of its images, where they are no data set of ours."""
        return next((plugin for plugin in self.plugins.values() if self.data.name in plugin.sources), None)

    @property
    def tokenizer_plugin(self) -> Plugin | None:
        """That of its tokenizer, where it is not ours."""
        chosen = getattr(self.tokenizer, "name", "vq")
        return next((plugin for plugin in self.plugins.values() if chosen in plugin.tokenizers), None)

    def section(self, name: str) -> Any:
        """Of `terms`: those that are on, with the code that they are made of."""
        if name != "terms":
            return super().section(name)
        found = {}
        for term, plugin, _ in self.own_terms:
            declared = plugin.terms[term]
            kept = declared.key_of(getattr(self.terms, term))
            if (declared.teacher or declared.averages_head) and not self.selfguided.teacher:  # which it alone reads
                kept["ema"] = [self.selfguided.ema_decay, self.selfguided.ema_ramp]
            found[term] = {**kept, "plugin": plugin.code_of(declared)}
        return found

    @model_validator(mode="after")
    def _terms_go_together(self) -> RunWithPlugins:
        changed = {"attend": "hidden_keys"} if self.selfguided.masked else {}
        for term, plugin, _ in self.own_terms:
            check_term(term, plugin, getattr(self.terms, term), Setting.of(self))
            for what in plugin.terms[term].changes:
                if what in changed:
                    raise FieldError(
                        f"terms.{term}",
                        f"{term} and {changed[what]} both change the student's {what}; give one of them weight 0",
                    )
                changed[what] = term
        return self


def run_class(
    declared: Mapping[str, ScriptStage], full: bool = True, plugins: Mapping[str, Plugin] | None = None
) -> type[Run]:
    """The class of the runs of an experiment.

    Args:
        declared: its own stages.
        full: whether they have ST-AR's stages too.
        plugins: what it names under `plugins`.
    """
    plugins = plugins or {}
    if not declared and not plugins:
        return RunSpec
    scripts = tuple((name, _without_places(script).model_dump_json()) for name, script in declared.items())
    own = tuple((name, plugin.model_copy(update={"folder": ""}).model_dump_json()) for name, plugin in plugins.items())
    return _made(scripts, full, own, is_imported(plugins))


def parse_run(values: Mapping[str, Any]) -> Run:
    """A run as it was recorded, of whichever class.

    Raises:
        pydantic.ValidationError: it is none of this version's.
    """
    declared = {name: ScriptStage.model_validate(value) for name, value in (values.get("stages") or {}).items()}
    plugins = {name: Plugin.model_validate(value) for name, value in (values.get("plugins") or {}).items()}
    return run_class(declared, not (declared or plugins) or "optim" in values, plugins).model_validate(values)


def _without_places(script: ScriptStage) -> ScriptStage:
    """Where its files and data lie makes no other class."""
    return script.model_copy(update={"folder": "", "reads": dict.fromkeys(script.reads, "")})


@cache
def _made(
    scripts: tuple[tuple[str, str], ...], full: bool, own: tuple[tuple[str, str], ...], imported: bool
) -> type[Run]:
    del imported  # part of the place in the cache: a class made before the code was there checks nothing
    declared = {name: ScriptStage.model_validate(json.loads(text)) for name, text in scripts}
    plugins = {name: Plugin.model_validate_json(text) for name, text in own}
    stages = own_stages(declared, plugins)
    sections = {name: script.section(name) for name, script in declared.items()} | stage_configs(plugins)
    parts = {name: own for plugin in plugins.values() for name, own in plugin.stages.items()}
    base: type[Run] = (RunWithPlugins if plugins else RunSpec) if full else ScriptRun
    kind: type[Resources] = StarResources if full else Resources
    resources = resources_class(kind, {**(STAGES if full else {}), **stages})

    class OwnRun(base):  # type: ignore[valid-type, misc]
        @property
        def pipeline(self) -> Mapping[str, Stage]:
            found = with_curves(super().pipeline, plugins)
            for name in needed_of(stages, stages):  # where images are given, nothing comes after a training
                if name in stages and all(before in found for before in stages[name].inputs):
                    found[name] = stages[name]
            return found

        def section(self, name: str) -> Any:
            return parts[name].key_of(getattr(self, name)) if name in parts else super().section(name)

    fields: dict[str, Any] = {"resources": (resources, resources())}
    if declared:
        fields["stages"] = (dict[str, ScriptStage], ...)
    if plugins:
        fields["plugins"] = (dict[str, Plugin], ...)
    if plugins and full:
        terms = section_of(plugins)
        fields["terms"] = (terms, terms())
        data = data_class(plugins)
        fields["data"] = (data, data())
        tokenizer = tokenizer_class(plugins)
        fields["tokenizer"] = (tokenizer, tokenizer())
    for name, section in sections.items():
        is_whole = all(not field.is_required() for field in section.model_fields.values())
        # what lacks a value is told by its own name, not by its section's
        fields[name] = (section, section() if is_whole else Field(default_factory=dict, validate_default=True))
    return cast("type[Run]", create_model(base.__name__, __base__=OwnRun, __doc__=base.__doc__, **fields))

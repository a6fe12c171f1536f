"""The user's own stages, commands and stages of plugins alike, as the platform sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from star.spec.base import FieldError
from star.spec.builtin import builtin_stages
from star.spec.graph import Stage, needed_of
from star.spec.plugin_parts import Plugin
from star.spec.plugins import stages_of
from star.spec.scripts import GIVEN, NAME, ScriptStage


def own_stages(scripts: Mapping[str, ScriptStage], plugins: Mapping[str, Plugin]) -> dict[str, Stage]:
    """All stages that an experiment declares, by name: its commands, and its plugins' stages."""
    return {name: script.stage(name) for name, script in scripts.items()} | stages_of(plugins)


def recorded_stages(spec: Mapping[str, Any]) -> dict[str, Stage]:
    """All stages that a run may have, by name, from its spec as JSON: built-in ones and its own.

    Training stages include the curves of the plugins' loss terms.
    """
    scripts = {name: ScriptStage.model_validate(one) for name, one in (spec.get("stages") or {}).items()}
    plugins = {name: Plugin.model_validate(one) for name, one in (spec.get("plugins") or {}).items()}
    return with_terms({**builtin_stages(), **own_stages(scripts, plugins)}, plugins)


def with_terms(stages: Mapping[str, Stage], plugins: Mapping[str, Plugin]) -> dict[str, Stage]:
    """`stages`, of which those that train with terms have the plugins' terms: their curves, and what any of them reads."""
    read = [stage for plugin in plugins.values() for term in plugin.terms.values() for stage in term.after]
    return with_inputs(with_curves(stages, plugins), read)


def with_inputs(stages: Mapping[str, Stage], more: Iterable[str]) -> dict[str, Stage]:
    """`stages`, of which those that train with terms read the stages `more` too; each stage after its inputs."""
    found = dict(stages)
    for name, stage in stages.items():
        if "terms" in stage.optional:
            inputs = tuple(dict.fromkeys((*stage.inputs, *(one for one in more if one in stages))))
            found[name] = replace(stage, inputs=inputs)
    return {name: found[name] for name in needed_of(found, found)}


def with_curves(stages: Mapping[str, Stage], plugins: Mapping[str, Plugin]) -> dict[str, Stage]:
    """`stages`, with the losses of the plugins' terms among the curves of those that train with terms."""
    names = [loss for plugin in plugins.values() for term in plugin.terms.values() for loss in term.loss_names]
    if not names:
        return dict(stages)
    return {
        name: replace(stage, curves={**stage.curves, **dict.fromkeys(names, "step")})
        if "terms" in stage.optional
        else stage
        for name, stage in stages.items()
    }


def stage_in(spec: Mapping[str, Any], stage: str) -> Stage | None:
    """The stage of this name, built-in or declared by a run, from the run's spec as JSON; None if there is none."""
    return recorded_stages(spec).get(stage)


def check_stages(scripts: Mapping[str, ScriptStage], plugins: Mapping[str, Plugin], taken: Sequence[str]) -> None:
    """Check that an experiment's own stages have legal names of their own, and come after existing stages in no circle.

    Args:
        taken: names that they cannot have.

    Raises:
        FieldError: a name is not legal or taken, an input does not exist, or a stage comes after itself.
    """
    after = {name: tuple(stage.inputs) for name, stage in own_stages(scripts, plugins).items()}
    for plugin in plugins.values():
        for name, term in plugin.terms.items():
            _check_term(plugin.module, name, term.after, after)
        for name in plugin.stages:
            try:
                _check(name, after, taken)
                if name in scripts:
                    raise FieldError("name", f"{name!r} is among `stages` too; give it another name")
            except FieldError as error:
                raise FieldError("plugins", f"{plugin.module}: stage {name}: {error}") from None
    for name in scripts:
        try:
            _check(name, after, taken)
        except FieldError as error:
            raise FieldError(".".join(("stages", *error.path)), str(error)) from None


def _check_term(module: str, name: str, reads: Iterable[str], after: Mapping[str, Iterable[str]]) -> None:
    """Check that a term reads existing stages, of which none needs a training."""
    inputs = {**{one: stage.inputs for one, stage in builtin_stages().items()}, **after}
    trains = {one for one, stage in builtin_stages().items() if "terms" in stage.optional}
    for before in reads:
        if before not in inputs:
            raise FieldError(
                "plugins", f"{module}: term {name}: after: {before!r} is no stage; there are: {', '.join(inputs)}"
            )
        line, seen = [before], set()
        while line:
            here = line.pop()
            if here in trains:
                raise FieldError(
                    "plugins", f"{module}: term {name}: after: {before!r} comes after {here}, in which the term is"
                )
            line += [one for one in inputs.get(here, ()) if one not in seen]
            seen.add(here)


def _check(name: str, after: Mapping[str, Iterable[str]], taken: Sequence[str]) -> None:
    if not NAME.fullmatch(name):
        raise FieldError(name, "is no name in braces: give lower-case letters, digits and _, a letter first")
    known = builtin_stages()
    if name in known or name in taken or name in GIVEN:
        raise FieldError(name, f"{name!r} is a part of every run already; give it another name")
    for i, before in enumerate(after[name]):
        if before not in after and before not in known:
            raise FieldError(f"{name}.after.{i}", f"{before!r} is no stage; there are: {', '.join([*after, *known])}")
    line, seen = [name], set()
    while line:
        here = line.pop()
        if here in seen:
            continue
        seen.add(here)
        befores = after.get(here, ())
        if name in befores:
            raise FieldError(f"{name}.after", "comes after itself")
        line += [before for before in befores if before in after and before != here]

"""Stages and plugins that an experiment's file declares: in its runs, and as files beside copies of the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from star.errors import DataError, SpecError
from star.spec import plugins as plugin_files
from star.spec.plugin_code import PluginError
from star.spec.plugin_parts import Plugin
from star.spec.plugins import read_plugin
from star.spec.script_files import contents_of
from star.spec.scripts import ScriptStage
from star.spec.yamldoc import LocatedYaml, SourceLocation, nested, overlay

RECORD = "plugins.json"
"""Name of the file beside a home's copy of an experiment's file that holds what its plugins declared."""
DECLARED = ("stages", "plugins")
"""Keys of the file that runs hold too, but that may not be written into `base` or a row."""


def with_plugins(doc: LocatedYaml, path: Path, recorded: bool = False) -> LocatedYaml:
    """`doc` with the names under `plugins` replaced by what these plugins declare. Their code is imported.

    Args:
        recorded: `path` is a home's copy: use the declarations that are recorded beside it, and import nothing.

    Raises:
        SpecError: a plugin cannot be used, or two have the same name or declare the same part.
    """
    names = doc.value.get("plugins") if isinstance(doc.value, dict) else None
    if names is None:
        return doc
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SpecError(
            f"{doc.location(('plugins',))}: plugins: give a list of files from this folder, or of installed plugins, such as [my_lab.py]."
        )
    if recorded and (path.parent / RECORD).is_file():
        return replace(doc, value={**doc.value, "plugins": json.loads((path.parent / RECORD).read_text())})
    found: dict[str, Plugin] = {}
    for i, name in enumerate(names):
        where = f"{doc.location(('plugins', i))}: plugins.{i}"
        try:
            plugin = read_plugin(name, path.parent)
        except PluginError as error:
            raise SpecError(f"{where}: {error}") from None
        for other, known in found.items():
            losses = {loss for term in known.terms.values() for loss in term.loss_names}
            same = [part for part in plugin.parts if part in known.parts]
            same += [loss for term in plugin.terms.values() for loss in term.loss_names if loss in losses]
            if known.module == plugin.module or same:
                what = f"is called {plugin.module}" if known.module == plugin.module else f"declares {same[0]}"
                raise SpecError(f"{where}: {name}: {what}, as {other} does; call one otherwise.")
        found[Path(name).name] = plugin  # without its folder: MLflow takes no name with `..` or `~`
    return replace(
        doc, value={**doc.value, "plugins": {name: one.model_dump(mode="json") for name, one in found.items()}}
    )


def refuse_declared(doc: LocatedYaml, beside: str) -> None:
    """Check that a partial spec has no `stages` and no `plugins`: these belong to the file itself, beside `beside`.

    Raises:
        SpecError: it has one.
    """
    for key in DECLARED:
        if key in doc.value:
            raise SpecError(f"{doc.location((key,))}: {key}: belong to the experiment; write them beside `{beside}`.")


def with_declared(
    base: LocatedYaml, stages: Mapping[str, ScriptStage], plugins: Mapping[str, Plugin], path: Path
) -> LocatedYaml:
    """`base` with the stages and plugins that the file declares; their paths are relative to the experiment's file.

    Raises:
        SpecError: `base` has `stages` or `plugins` already.
    """
    refuse_declared(base, "base")
    if plugins:
        held = {name: plugin.model_dump(mode="json") for name, plugin in plugins.items()}
        base = overlay(base, nested(("plugins",), held, SourceLocation(str(path))))
    if not stages:
        return base
    declared = {
        name: script.model_dump(mode="json")
        | {"folder": str((path.parent / Path(script.folder).expanduser()).resolve())}
        | {
            "reads": {
                one: str((path.parent / Path(place).expanduser()).resolve()) for one, place in script.reads.items()
            }
        }
        for name, script in stages.items()
    }
    return overlay(base, nested(("stages",), declared, SourceLocation(str(path))))


def texts_of(
    stages: Mapping[str, ScriptStage], plugins: Mapping[str, Plugin], path: Path, doc: LocatedYaml
) -> dict[str, str]:
    """Name -> text of the files of scripts and plugins to keep beside a copy of the experiment's file.

    Installed plugins are only named there, not copied.

    Raises:
        SpecError: a file of a script is missing, or files of a stage and a plugin have the same name.
        DataError: a plugin's files are gone, or were changed since they were read.
    """
    found: dict[str, str] = {}
    for name, script in stages.items():
        placed = script.model_copy(update={"folder": str((path.parent / Path(script.folder).expanduser()).resolve())})
        try:
            contents = contents_of(name, placed)
        except DataError as error:
            where = tuple(int(step) if step.isdigit() else step for step in str(error).partition(":")[0].split("."))
            raise SpecError(f"{doc.location(where) or path}: {error}") from None
        inside = f"{name}/" if script.folder else ""
        found |= {inside + one: content.decode("utf-8", "surrogateescape") for one, content in contents.items()}
    if plugins:
        declared = {name: plugin.model_dump(mode="json") for name, plugin in plugins.items()}
        found[RECORD] = json.dumps(declared, indent=1)
    for name, plugin in plugins.items():
        if name.endswith(".py"):
            try:
                kept = plugin_files.contents_of(plugin)
            except DataError as error:
                raise SpecError(f"{doc.location(('plugins',)) or path}: {error}") from None
            texts = {one: content.decode("utf-8", "surrogateescape") for one, content in kept.items()}
            for one, text in texts.items():
                if found.get(one, text) != text:
                    raise SpecError(
                        f"{doc.location(('plugins',)) or path}: plugins: {name}: a file of a stage is called {one} too, and the two "
                        "would lie side by side in the home; call one otherwise."
                    )
            found |= texts
    return found

"""The loss terms that a run trains on: ST-AR's, and those of plugins to which it gives a weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from star.errors import DataError
from star.objectives.st_ar import st_ar
from star.objectives.term import Term
from star.pipeline.config.plugged import RunWithPlugins, promised
from star.pipeline.config.run import StarRun
from star.pipeline.config.setting import Setting
from star.spec.plugin_parts import Plugin
from star.spec.plugins import part_of


def terms_of(spec: StarRun, folders: Mapping[str, Path] | None = None) -> list[Term]:
    """The terms of a run's objective.

    Args:
        folders: digest of each plugin -> the copy of it to import; if None, the folders that the run was planned from.

    Raises:
        DataError: a plugin's term is not what its class declared.
    """
    terms = st_ar(spec.selfguided, spec.contrastive_layer)
    for name, plugin, values in spec.own_terms if isinstance(spec, RunWithPlugins) else ():
        folder = Path(plugin.folder) if folders is None else folders[plugin.digest]
        terms.append(_own(name, plugin, folder, values, Setting.of(spec)))
    return terms


def _own(name: str, plugin: Plugin, folder: Path, values: Mapping[str, object], setting: Setting) -> Term:
    found = part_of(plugin, folder, name)
    term = cast(Term, found(found.config.model_validate(values), setting))
    term.weight = float(cast(float, values["weight"]))
    said = promised(term, plugin.terms[name])
    if said is not None:
        raise DataError(f"terms.{name}: {said}.")
    return term

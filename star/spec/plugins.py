"""Plugins: the user's files whose parts a run may use. Their contents are in the keys of the stages that use them.

`plugins:` of an experiment names files beside it, or installed packages. A plugin is imported when the file is read, to
check its settings, and again by the worker. A run holds what was declared, so records are read without the code.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from star.errors import DataError
from star.spec.base import FieldError, Section
from star.spec.builtin import builtin_runs, builtin_stages
from star.spec.graph import Stage
from star.spec.plugin_code import PluginError, files_of, import_from, place_of, where
from star.spec.plugin_parts import (
    OpaqueStage,
    OwnSource,
    OwnStage,
    OwnTerm,
    OwnTokenizer,
    Plugin,
    PluginConfig,
    SourceConfig,
    StageConfig,
    TermConfig,
    TokenizerConfig,
)
from star.spec.script_files import digest_of, listing_of
from star.spec.scripts import NAME, OF_ALL, is_inside, is_metric_name
from star.words import shown

KINDS = (TermConfig, StageConfig, SourceConfig, TokenizerConfig)
_CONFIGS: dict[tuple[str, str], type[PluginConfig]] = {}
"""(digest of a plugin, name of a part) -> the part's config class, for plugins that this process has imported."""
_CLASSES: dict[tuple[str, str], Any] = {}
"""(digest of a plugin, name of a part) -> the part's own class, for plugins that this process has imported."""
TERM = "star.objectives.term"
"""The module whose class `Term` a plugin's terms are made from; what they do not write themselves is written there."""
METHODS = {StageConfig: ("run",), SourceConfig: ("labels", "image"), TokenizerConfig: ("encode", "decode")}
"""Kind of config -> methods that a part with such a config has to define."""
CHANGES = ("inputs", "attend", "order", "sequence")
"""What a loss term may change in the student's forward pass."""
ARRANGES = {"order", "sequence"}
"""Those of `CHANGES` that make it run on something else than codes in raster order."""


def read_plugin(name: str, folder: Path) -> Plugin:
    """Import and check a plugin. `name` is a path from `folder`, the experiment's, or the name of an installed plugin.

    Raises:
        PluginError: it is not there, cannot be imported, or declares nothing that can be used.
    """
    place, module_name = place_of(name, folder)
    try:
        digest = digest_of(listing_of(files_of(place, module_name)))
    except OSError as error:
        raise PluginError(f"{name}: {shown(Path(str(error.filename)))} cannot be read: {error.strerror}.") from None
    classes = parts_in(import_from(place, module_name, digest, name))
    if not classes:
        raise PluginError(
            f"{name}: declares nothing: give a class with `name` and `config`, a TermConfig, StageConfig, SourceConfig or TokenizerConfig."
        )
    terms: dict[str, OwnTerm] = {}
    sources: dict[str, OwnSource] = {}
    tokenizers: dict[str, OwnTokenizer] = {}
    stages: dict[str, OwnStage] = {}
    for part, found in classes.items():
        where = f"{name}: {found.__qualname__}"
        _check(where, part, found.config)
        _check_written(where, found)
        try:
            if issubclass(found.config, TermConfig):
                terms[part] = _term(where, found)
            elif issubclass(found.config, SourceConfig):
                sources[part] = OwnSource(neutral=dict(found.config.neutral), version=found.version)
            elif issubclass(found.config, TokenizerConfig):
                tokenizers[part] = OwnTokenizer(neutral=dict(found.config.neutral), version=found.version)
            else:
                stages[part] = _stage(where, found)
        except (TypeError, AttributeError) as error:
            raise PluginError(f"{where}: cannot be read: {error}.") from None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise PluginError(f"{where}: {field}: {first['input']!r} is not legal: {first['msg']}.") from None
        _CONFIGS[digest, part], _CLASSES[digest, part] = found.config, found
    found_parts: dict[str, Any] = {"terms": terms, "stages": stages, "sources": sources, "tokenizers": tokenizers}
    return Plugin(folder=str(place), module=module_name, digest=digest, **found_parts)


def part_of(plugin: Plugin, folder: Path, name: str) -> Any:
    """The class of one part of a plugin, imported from `folder`, which holds the plugin as it was planned.

    Raises:
        PluginError: it cannot be imported.
    """
    return parts_in(import_from(folder, plugin.module, plugin.digest, plugin.module))[name]


def parts_in(module: ModuleType) -> dict[str, Any]:
    """Name -> class of each part that a module declares.

    Raises:
        PluginError: two parts have the same name.
    """
    top = module.__name__.partition(".")[0]
    found: dict[str, Any] = {}
    for one in vars(module).values():
        if not inspect.isclass(one) or one.__module__.partition(".")[0] != top or not _is_part(one):
            continue
        part: Any = one
        other = found.setdefault(part.name, part)
        if other is not part:
            raise PluginError(
                f"{Path(str(module.__file__)).name}: {other.__qualname__} and {part.__qualname__} are both called {part.name!r}; "
                "give each a name of its own."
            )
    return found


def _is_part(one: Any) -> bool:
    config = getattr(one, "config", None)
    named = isinstance(getattr(one, "name", None), str)
    return named and inspect.isclass(config) and issubclass(config, KINDS)


def _check(where: str, name: str, config: type[PluginConfig]) -> None:
    if not NAME.fullmatch(name) or name in builtin_runs().own_terms:
        taken = (
            "a name of ST-AR's own"
            if name in builtin_runs().own_terms
            else "no name: give lower-case letters, digits and _"
        )
        raise PluginError(f"{where}: name: {name!r} is {taken}; call it otherwise.")
    if name in (*builtin_runs().taken, *dir(Section)):
        raise PluginError(f"{where}: name: {name!r} means something else in a run; call it otherwise.")
    lacking = [field for field, info in config.model_fields.items() if info.is_required()]
    if lacking:
        raise PluginError(f"{where}: config: {lacking[0]} has no default, which rows that say nothing need; give one.")
    try:
        plain = config().model_dump(mode="json")
        json.dumps(plain, allow_nan=False)
        same = config.model_validate(plain) == config()
    except (Exception, SystemExit) as error:  # its validators may raise anything
        told = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        raise PluginError(
            f"{where}: config: its defaults are not legal, or no plain JSON: {'.'.join(map(str, told['loc']))}: {told['msg']}."
        ) from None
    if not same:
        raise PluginError(f"{where}: config: its defaults do not survive JSON; use numbers, texts, lists and mappings.")
    if not isinstance(config.neutral, Mapping):
        raise PluginError(f"{where}: config: neutral: give a mapping of fields to values, such as {{'weight': 0}}.")
    unknown = [field for field in config.neutral if field not in config.model_fields]
    if unknown:
        raise PluginError(f"{where}: config: neutral names {unknown[0]!r}, which is no field of it.")


def _check_written(where: str, found: Any) -> None:
    """Check that the required methods are defined, and that lists of names are not single texts."""
    kind = next(kind for kind in KINDS if issubclass(found.config, kind))
    for method in METHODS.get(kind, ()):
        own = getattr(found, method, None)
        if own is None or getattr(own, "__module__", "") == "star.plugin":
            raise PluginError(
                f"{where}: has no {method}; docs/own-metric.md, own-tokenizer.md and data.md show what it is given."
            )
    for name in ("loss_names", "changes", "agrees_with", "after", "results", "attach"):
        value = getattr(found, name, ())
        if isinstance(value, str):
            raise PluginError(f"{where}: {name}: {value!r} is a text; give a tuple: ({value!r},).")
        if not isinstance(value, Collection):
            raise PluginError(f"{where}: {name}: {value!r} is no tuple of names; give one, () for none.")
    wrong = [what for what in getattr(found, "changes", ()) if what not in CHANGES]
    if wrong:
        raise PluginError(
            f"{where}: changes: {wrong[0]!r} is nothing that a term changes; give {' or '.join(CHANGES)}."
        )
    wrong = [what for what in getattr(found, "agrees_with", ()) if what not in ARRANGES]
    if wrong:
        raise PluginError(f"{where}: agrees_with: {wrong[0]!r} is nothing to agree with; give {' or '.join(ARRANGES)}.")
    arrange = getattr(found, "arrange", None)
    if ARRANGES & set(getattr(found, "changes", ())) and getattr(arrange, "__module__", "") == "star.objectives.term":
        raise PluginError(
            f"{where}: changes the order or the sequence, and has no arrange; docs/own-loss.md says what it returns."
        )
    if not isinstance(getattr(found, "curves", {}), Mapping):
        raise PluginError(
            f'{where}: curves: give a mapping of names to what a step is, such as {{"mean_by_row": "row"}}.'
        )


def config_of(plugin: Plugin, part: str, opaque: type[PluginConfig]) -> type[PluginConfig]:
    """The config class of a plugin's part; `opaque`, which takes what a record holds, if its code was not imported."""
    return _CONFIGS.get((plugin.digest, part), opaque)


def class_of(plugin: Plugin, part: str) -> Any:
    """The class of a plugin's part; None if its code was not imported, as when a record is read."""
    return _CLASSES.get((plugin.digest, part))


def check_made(where_: str, plugin: Plugin, part: str, make: Callable[[Any], str | None], has_to_have: str) -> None:
    """Check that a part can be made for a run. If its code was not imported, nothing is checked.

    Args:
        where_: the run's field that asks for it.
        make: makes the part from its class; returns what is wrong with it, or None.
        has_to_have: an attribute of the class; without it nothing is checked.

    Raises:
        FieldError: the part cannot be made, or something is wrong with it.
    """
    found = class_of(plugin, part)
    if found is None or not hasattr(found, has_to_have):
        return
    try:
        said = make(found)
    except FieldError as error:
        raise FieldError(".".join((where_, *error.path)), str(error)) from None
    except (Exception, SystemExit) as error:  # a plugin's code may raise anything
        at = where(error, Path(plugin.folder), plugin.module)
        raise FieldError(where_, f"{at}{found.__qualname__} cannot be made: {type(error).__name__}: {error}") from None
    if said is not None:
        raise FieldError(where_, said)


def _term(where: str, term: Any) -> OwnTerm:
    lacking = [name for name in ("loss_names", "teacher", "version") if not hasattr(term, name)]
    if lacking:
        raise PluginError(f"{where}: has no {lacking[0]}; derive it from star.objectives.Term.")
    writes = getattr(getattr(term, "loss", None), "__module__", TERM) != TERM
    if writes and not term.loss_names:
        raise PluginError(f"{where}: has a loss and no loss_names; name what it returns: loss_names = ('my_loss',).")
    if term.loss_names and not writes:
        raise PluginError(f"{where}: has loss_names {tuple(term.loss_names)} and no method loss, which returns them.")
    if isinstance(term.teacher, bool | int | str):
        raise PluginError(f"{where}: teacher: {term.teacher!r}; give a TeacherReads of star.objectives, or None.")
    trains = [stage for stage in builtin_stages().values() if "terms" in stage.optional]
    recorded = {one for stage in trains for one in (*stage.results, *stage.curves, "lr")}
    for loss in term.loss_names:
        if loss in (*recorded, *OF_ALL):
            raise PluginError(f"{where}: loss_names: {loss!r} is recorded of every training; call it otherwise.")
        if not is_metric_name(str(loss)):
            raise PluginError(f"{where}: loss_names: {loss!r} is no name that MLflow takes; call it otherwise.")
    return OwnTerm(
        after=list(getattr(term, "after", ())),
        loss_names=list(term.loss_names),
        changes=sorted(getattr(term, "changes", ())),
        agrees_with=sorted(getattr(term, "agrees_with", ())),
        teacher=term.teacher is not None,
        averages_head=getattr(term, "averages_head", False),
        neutral=dict(term.config.neutral),
        version=term.version,
    )


def _stage(where: str, stage: Any) -> OwnStage:
    for name in stage.attach:
        if not is_inside(str(name)):
            raise PluginError(
                f"{where}: attach: {name!r}: give the path of one file in job.out, such as plots/loss.png."
            )
    for name in (*stage.results, *stage.curves):
        if not is_metric_name(str(name)):
            raise PluginError(f"{where}: {name!r} is no name that MLflow takes; give it another name.")
        if name in OF_ALL or (name in stage.results and name in stage.curves):
            told = "every stage has" if name in OF_ALL else "is a result and a curve"
            raise PluginError(f"{where}: {name!r} {told}; give it another name.")
    return OwnStage(
        after=list(stage.after),
        results=list(stage.results),
        curves=dict(stage.curves),
        attach=list(stage.attach),
        keeps=stage.keeps,
        gpu=stage.gpu,
        uses_seed=stage.uses_seed,
        neutral=dict(stage.config.neutral),
        version=stage.version,
    )


def stages_of(plugins: Mapping[str, Plugin]) -> dict[str, Stage]:
    """All stages that plugins declare, by name."""
    return {
        name: own.stage(name, plugin.code_of(own)) for plugin in plugins.values() for name, own in plugin.stages.items()
    }


def stage_configs(plugins: Mapping[str, Plugin]) -> dict[str, type[PluginConfig]]:
    """The config classes of all stages that plugins declare, by name of the stage."""
    return {name: config_of(plugin, name, OpaqueStage) for plugin in plugins.values() for name in plugin.stages}


def is_imported(plugins: Mapping[str, Plugin]) -> bool:
    """Whether the code of all these plugins was imported, so that their settings can be checked."""
    return all((plugin.digest, name) in _CONFIGS for plugin in plugins.values() for name in plugin.parts)


def contents_of(plugin: Plugin) -> dict[str, bytes]:
    """Name -> content of a plugin's files, as they were when its run was planned.

    Raises:
        DataError: they are gone, or were changed since.
    """
    try:
        found = files_of(Path(plugin.folder), plugin.module)
    except OSError as error:
        raise DataError(f"plugins: {plugin.module}: {error.filename} cannot be read: {error.strerror}.") from None
    if digest_of(listing_of(found)) != plugin.digest:
        raise DataError(f"plugins: {plugin.module} was changed while this was planned; give the same command again.")
    return found

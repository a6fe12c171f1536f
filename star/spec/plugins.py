"""Plugins: files of the user's own whose parts a run may use. Their contents are in the key of what uses them.

`plugins:` of an experiment names files beside it, or installed packages. A plugin is imported where its experiment's file is read, to
check what runs say of it, and by the worker. A run holds what was declared, so records are read without the code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, create_model

from star.errors import DataError
from star.spec.base import FieldError, Section
from star.spec.graph import STAGES, Stage
from star.spec.images import SOURCES, DataSpec, TokenizerSpec
from star.spec.plugin_code import PluginError, files_of, import_from, place_of, where
from star.spec.plugin_parts import (
    TERMS,
    OpaqueSource,
    OpaqueStage,
    OpaqueTerm,
    OpaqueTokenizer,
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
from star.spec.scripts import NAME, OF_ALL
from star.spec.setting import Setting
from star.words import shown

KINDS = (TermConfig, StageConfig, SourceConfig, TokenizerConfig)
_CONFIGS: dict[tuple[str, str], type[PluginConfig]] = {}
"""(digest, part) -> the config of a plugin that was imported in this process."""
_CLASSES: dict[tuple[str, str], Any] = {}
"""The same -> the class itself."""
METHODS = {StageConfig: ("run",), SourceConfig: ("labels", "image"), TokenizerConfig: ("encode", "decode")}
"""What has to be written of each."""
OF_FOLDERS = ("test_fraction", "train_split", "test_split")
"""Fields of `data` that a plugin's data set does not see."""
CHANGES = ("inputs", "attend")
"""What a term may change of the student's pass."""


def read_plugin(name: str, folder: Path) -> Plugin:
    """A plugin by the name that an experiment gives it: a path from the experiment's folder, or of an installed one.

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


def parts_in(module: ModuleType) -> dict[str, Any]:
    """Name -> class of each part that a module declares.

    Raises:
        PluginError: two have one name.
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
    if not NAME.fullmatch(name) or name in TERMS:
        taken = "a name of ST-AR's own" if name in TERMS else "no name: give lower-case letters, digits and _"
        raise PluginError(f"{where}: name: {name!r} is {taken}; call it otherwise.")
    if name in (*SOURCES, *DataSpec.model_fields, *TokenizerSpec.model_fields, "vq", *dir(Section)):
        raise PluginError(f"{where}: name: {name!r} means something else in a run; call it otherwise.")
    lacking = [field for field, info in config.model_fields.items() if info.is_required()]
    if lacking:
        raise PluginError(f"{where}: config: {lacking[0]} has no default, which rows that say nothing need; give one.")
    try:
        same = config.model_validate(config().model_dump(mode="json")) == config()
    except (ValidationError, ValueError, TypeError) as error:
        told = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        raise PluginError(
            f"{where}: config: its defaults are not legal, or no plain JSON: {'.'.join(map(str, told['loc']))}: {told['msg']}."
        ) from None
    if not same:
        raise PluginError(f"{where}: config: its defaults do not survive JSON; use numbers, texts, lists and mappings.")
    unknown = [field for field in config.neutral if field not in config.model_fields]
    if unknown:
        raise PluginError(f"{where}: config: neutral names {unknown[0]!r}, which is no field of it.")


def _check_written(where: str, found: Any) -> None:
    """That what has to be there is, and lists of names are lists."""
    kind = next(kind for kind in KINDS if issubclass(found.config, kind))
    for method in METHODS.get(kind, ()):
        own = getattr(found, method, None)
        if own is None or getattr(own, "__module__", "") == "star.plugin":
            raise PluginError(
                f"{where}: has no {method}; docs/own-metric.md, own-tokenizer.md and data.md show what it is given."
            )
    for name in ("loss_names", "changes", "after", "results", "attach"):
        value = getattr(found, name, ())
        if isinstance(value, str):
            raise PluginError(f"{where}: {name}: {value!r} is a text; give a tuple: ({value!r},).")
    wrong = [what for what in getattr(found, "changes", ()) if what not in CHANGES]
    if wrong:
        raise PluginError(
            f"{where}: changes: {wrong[0]!r} is nothing that a term changes; give {' or '.join(CHANGES)}."
        )
    if not isinstance(getattr(found, "curves", {}), Mapping):
        raise PluginError(
            f'{where}: curves: give a mapping of names to what a step is, such as {{"mean_by_row": "row"}}.'
        )


def promised(term: Any, declared: OwnTerm) -> str | None:
    """What to say of a term, made for a run, that is not what its class declares; None where it is."""
    for what, now, then in (
        ("loss_names", list(term.loss_names), declared.loss_names),
        ("changes", sorted(term.changes), declared.changes),
        ("averages_head", bool(term.averages_head), declared.averages_head),
    ):
        if now != then:
            return (
                f"its __init__ makes {what} {now!r}, and the class says {then!r}; say on the class what every run has"
            )
    if (term.teacher is not None) != declared.teacher:
        if declared.teacher:
            return "its class has a teacher, and its __init__ takes it away; leave it, or leave it out of the class"
        return "its __init__ sets a teacher, and the class has none; write `teacher = TeacherReads()` on the class too"
    return None


def check_term(name: str, plugin: Plugin, config: Section, setting: Setting) -> None:
    """That a term can be made for a run, where its code was imported.

    Raises:
        FieldError: it cannot, or is not what its class declares.
    """
    found = _CLASSES.get((plugin.digest, name))
    if found is None or not hasattr(found, "build"):
        return
    try:
        said = promised(found(config, setting), plugin.terms[name])
    except Exception as error:  # somebody else's code
        at = where(error, Path(plugin.folder))
        raise FieldError(
            f"terms.{name}", f"{at}{found.__qualname__} cannot be made: {type(error).__name__}: {error}"
        ) from None
    if said is not None:
        raise FieldError(f"terms.{name}", said)


def _term(where: str, term: Any) -> OwnTerm:
    lacking = [name for name in ("loss_names", "teacher", "version") if not hasattr(term, name)]
    if lacking:
        raise PluginError(f"{where}: has no {lacking[0]}; derive it from star.objectives.Term.")
    trains = [stage for stage in STAGES.values() if "terms" in stage.optional]
    recorded = {one for stage in trains for one in (*stage.results, *stage.curves, "lr")}
    for loss in term.loss_names:
        if loss in (*recorded, *OF_ALL):
            raise PluginError(f"{where}: loss_names: {loss!r} is recorded of every training; call it otherwise.")
    return OwnTerm(
        loss_names=list(term.loss_names),
        changes=sorted(getattr(term, "changes", ())),
        teacher=term.teacher is not None,
        averages_head=getattr(term, "averages_head", False),
        neutral=dict(term.config.neutral),
        version=term.version,
    )


def _stage(where: str, stage: Any) -> OwnStage:
    for name in (*stage.results, *stage.curves):
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
    """The stages that plugins declare."""
    return {
        name: own.stage(name, plugin.code_of(own)) for plugin in plugins.values() for name, own in plugin.stages.items()
    }


def section_of(plugins: Mapping[str, Plugin]) -> type[Section]:
    """The model of a run's `terms`: a field for each term that there is."""
    fields: dict[str, Any] = {}
    for plugin in plugins.values():
        for term in plugin.terms:
            config = _CONFIGS.get((plugin.digest, term), OpaqueTerm)
            fields[term] = (config, config())
    return create_model("Terms", __base__=Section, __doc__="Loss terms of plugins.", **fields)


def stage_configs(plugins: Mapping[str, Plugin]) -> dict[str, type[PluginConfig]]:
    """The model of the section of each stage that plugins declare."""
    return {
        name: _CONFIGS.get((plugin.digest, name), OpaqueStage) for plugin in plugins.values() for name in plugin.stages
    }


def data_class(plugins: Mapping[str, Plugin]) -> type[DataSpec]:
    """The model of a run's `data`, with the data sets that plugins declare: each by its name, with a section of its own."""
    own = {name: (plugin, part) for plugin in plugins.values() for name, part in plugin.sources.items()}
    if not own:
        return DataSpec

    class OwnData(DataSpec):
        def identity(self) -> dict[str, Any]:
            values = {name: value for name, value in super().identity().items() if name not in own}
            if self.name in own:
                plugin, part = own[self.name]
                values = {name: one for name, one in values.items() if name not in OF_FOLDERS}
                values[self.name] = {**part.key_of(getattr(self, self.name)), "plugin": plugin.code_of(part)}
            return values

    fields: dict[str, Any] = {"name": (Literal[(*SOURCES, *own)], DataSpec.model_fields["name"])}
    for name, (plugin, _) in own.items():
        config = _CONFIGS.get((plugin.digest, name), OpaqueSource)
        fields[name] = (config, config())
    return create_model("DataSpec", __base__=OwnData, __doc__=DataSpec.__doc__, **fields)


def tokenizer_class(plugins: Mapping[str, Plugin]) -> type[TokenizerSpec]:
    """The model of a run's `tokenizer`, with those that plugins declare: each by its name, with a section of its own."""
    own = {name: (plugin, part) for plugin in plugins.values() for name, part in plugin.tokenizers.items()}
    if not own:
        return TokenizerSpec

    class OwnTokenizerSpec(TokenizerSpec):
        if TYPE_CHECKING:
            name: str

        @property
        def downsample(self) -> int:
            return int(getattr(self, self.name).downsample) if self.name in own else super().downsample

        def identity(self) -> dict[str, Any]:
            if self.name not in own:
                return {name: value for name, value in super().identity().items() if name not in (*own, "name")}
            plugin, part = own[self.name]
            config = {**part.key_of(getattr(self, self.name)), "plugin": plugin.code_of(part)}
            found = {"name": self.name, "codebook_size": self.codebook_size, self.name: config}
            return found if self.weights else {**found, "seed": self.seed}

    chosen = Field("vq", description="vq: ours; or the name of a plugin's")
    fields: dict[str, Any] = {"name": (Literal[("vq", *own)], chosen)}
    for name, (plugin, _) in own.items():
        config = _CONFIGS.get((plugin.digest, name), OpaqueTokenizer)
        fields[name] = (config, config())
    return create_model("TokenizerSpec", __base__=OwnTokenizerSpec, __doc__=TokenizerSpec.__doc__, **fields)


def is_imported(plugins: Mapping[str, Plugin]) -> bool:
    """Whether what runs say of these plugins can be checked."""
    return all((plugin.digest, name) in _CONFIGS for plugin in plugins.values() for name in plugin.parts)


def active(terms: Section, plugins: Mapping[str, Plugin]) -> Iterator[tuple[str, Plugin, dict[str, Any]]]:
    """The terms that a run is trained with: name, plugin, and what the run says of it."""
    declared = {name: plugin for plugin in plugins.values() for name in plugin.terms}
    # whatever order the file has: their modules draw their first weights one by one
    for name, plugin in sorted(declared.items()):
        values = getattr(terms, name).model_dump(mode="json")
        if values["weight"] > 0:
            yield name, plugin, values


def contents_of(plugin: Plugin) -> dict[str, bytes]:
    """A plugin's files, as they were when its run was planned.

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

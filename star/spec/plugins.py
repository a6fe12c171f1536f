"""Plugins: files of the user's own whose parts a run may use. Their contents are in the key of what uses them.

`plugins:` of an experiment names files beside it, or installed packages. A plugin is imported where its experiment's file is read, to
check what runs say of it, and by the worker. A run holds what was declared, so records are read without the code.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, ValidationError, create_model

from star.errors import DataError, StarError
from star.spec.base import NonNegative, Section
from star.spec.graph import STAGES
from star.spec.script_files import digest_of, listing_of
from star.spec.scripts import NAME, OF_ALL, MetricName
from star.words import shown

GROUP = "star.plugins"
"""Of entry points: name -> module."""
TERMS = ("next_token", "mim", "contrastive", "hidden_keys")
"""Names of ST-AR's own terms."""
PATTERNS = ("*.py", "*.json", "*.yaml", "*.txt")
"""Files of a package that count as its code."""


class TermConfig(Section):
    """What runs may say of a loss term of one's own: subclass it with fields that all have defaults."""

    neutral: ClassVar[Mapping[str, Any]] = {}
    """Field -> the value at which it is outside the key: one that is added later with its neutral value as default re-keys nothing."""
    weight: NonNegative = Field(0.0, description="of its losses; 0: it is not built, and no part of the key")


class OpaqueConfig(TermConfig):
    """The same where the plugin's code is not at hand: of a record."""

    model_config = ConfigDict(extra="allow", frozen=True)


class OwnTerm(Section):
    """A loss term, as its plugin declares it."""

    loss_names: list[MetricName]
    changes: list[str] = Field(default_factory=list)
    teacher: bool = False
    neutral: dict[str, Any] = Field(default_factory=dict)
    version: Annotated[int, Field(ge=1)] | None = None


class Plugin(Section):
    """A plugin as a run holds it."""

    folder: str
    """Where its files were read."""
    module: str
    digest: str
    """16 hexadecimal digits of its files' names and contents."""
    terms: dict[str, OwnTerm]


class PluginError(StarError):
    """A plugin that cannot be used; the message begins with its name."""


_CONFIGS: dict[tuple[str, str], type[TermConfig]] = {}
"""(digest, term) -> the config of a plugin that was imported in this process."""


def read_plugin(name: str, folder: Path) -> Plugin:
    """A plugin by the name that an experiment gives it: a path from the experiment's folder, or of an installed one.

    Raises:
        PluginError: it is not there, cannot be imported, or declares nothing that can be used.
    """
    place, module_name = _place_of(name, folder)
    try:
        digest = digest_of(listing_of(files_of(place, module_name)))
    except OSError as error:
        raise PluginError(f"{name}: {shown(Path(str(error.filename)))} cannot be read: {error.strerror}.") from None
    classes = terms_in(import_from(place, module_name, digest, name))
    terms = {term: _declared(name, term, found) for term, found in classes.items()}
    if not terms:
        raise PluginError(
            f"{name}: declares nothing: give a class with `name` and `config`, a subclass of star.objectives.TermConfig."
        )
    for term, found in classes.items():
        _CONFIGS[digest, term] = found.config
    return Plugin(folder=str(place), module=module_name, digest=digest, terms=terms)


def _place_of(name: str, folder: Path) -> tuple[Path, str]:
    """The folder that a plugin's files are named from, and the module's name."""
    if name.endswith(".py"):
        path = (folder / Path(name).expanduser()).resolve()
        if not path.is_file():
            raise PluginError(f"{name}: {shown(path)} is no file; give a path from {shown(folder)}.")
        if not path.stem.isidentifier():
            raise PluginError(
                f"{name}: {path.stem!r} is no name of a module; call the file otherwise, such as my_lab.py."
            )
        return path.parent, path.stem
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if name not in entries:
        legal = ", ".join(sorted(entries)) or "none"
        raise PluginError(f"{name}: is no installed plugin ({legal} are), and no file, whose name would end in .py.")
    module_name = entries[name].value.partition(":")[0]
    top = module_name.partition(".")[0]
    found = importlib.util.find_spec(top)
    if found is None or found.origin is None:
        raise PluginError(f"{name}: its module {module_name} cannot be found; install the package again.")
    origin = Path(found.origin)
    return (origin.parent.parent if origin.name == "__init__.py" else origin.parent), module_name


def files_of(folder: Path, module: str) -> dict[str, bytes]:
    """Name below `folder` -> content of each file of a module or package.

    Raises:
        OSError: one cannot be read.
    """
    top = module.partition(".")[0]
    package = folder / top
    if not (package / "__init__.py").is_file():
        return {f"{top}.py": (folder / f"{top}.py").read_bytes()}
    paths = sorted({path for pattern in PATTERNS for path in package.rglob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def import_from(folder: Path, module: str, digest: str, name: str) -> ModuleType:
    """The module whose files lie in `folder`, imported once for each content.

    Raises:
        PluginError: whatever its code raises, with file and line.
    """
    top, _, rest = module.partition(".")
    unique = f"star_plugin_{digest}_{top}"  # two files of one name, or two versions, are two modules
    whole = f"{unique}.{rest}" if rest else unique
    if whole in sys.modules:
        return sys.modules[whole]
    path = folder / top / "__init__.py" if (folder / top / "__init__.py").is_file() else folder / f"{top}.py"
    places = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(unique, path, submodule_search_locations=places)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    made = importlib.util.module_from_spec(spec)
    sys.modules[unique] = made  # pydantic and dataclasses look themselves up there
    try:
        spec.loader.exec_module(made)
        return importlib.import_module(whole)
    except (Exception, SystemExit) as error:  # somebody else's code
        for known in [one for one in sys.modules if one == unique or one.startswith(f"{unique}.")]:
            del sys.modules[known]
        where = _where(error, folder)
        before = "" if where.startswith(f"{Path(name).name}:") else f"{name}: "
        raise PluginError(f"{before}{where}{type(error).__name__}: {error}.") from error


def _where(error: BaseException, folder: Path) -> str:
    """`my_lab.py:12: `: the last line of the plugin's own that led to an error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}: "
    lines = [one for one in traceback.extract_tb(error.__traceback__) if Path(one.filename).is_relative_to(folder)]
    return f"{Path(lines[-1].filename).name}:{lines[-1].lineno}: " if lines else ""


def terms_in(module: ModuleType) -> dict[str, Any]:
    """Name -> class of each loss term that a module, or one below it, declares.

    Raises:
        PluginError: two have one name.
    """
    top = module.__name__.partition(".")[0]
    found: dict[str, Any] = {}
    for one in vars(module).values():
        if not inspect.isclass(one) or one.__module__.partition(".")[0] != top or not _is_term(one):
            continue
        term: Any = one
        other = found.setdefault(term.name, term)
        if other is not term:
            raise PluginError(
                f"{Path(str(module.__file__)).name}: {other.__qualname__} and {term.__qualname__} are both called {term.name!r}; "
                "give each a name of its own."
            )
    return found


def _is_term(one: Any) -> bool:
    config = getattr(one, "config", None)
    return isinstance(getattr(one, "name", None), str) and inspect.isclass(config) and issubclass(config, TermConfig)


def _declared(plugin: str, name: str, term: Any) -> OwnTerm:
    where = f"{plugin}: {term.__qualname__}"
    if not NAME.fullmatch(name) or name in TERMS:
        taken = "a name of ST-AR's own" if name in TERMS else "no name: give lower-case letters, digits and _"
        raise PluginError(f"{where}: name: {name!r} is {taken}; call it otherwise.")
    lacking = [field for field, info in term.config.model_fields.items() if info.is_required()]
    if lacking:
        raise PluginError(
            f"{where}: config: {lacking[0]} has no default, which rows without the term would need; give one."
        )
    unknown = [field for field in term.config.neutral if field not in term.config.model_fields]
    if unknown:
        raise PluginError(f"{where}: config: neutral names {unknown[0]!r}, which is no field of it.")
    trains = [stage for stage in STAGES.values() if "terms" in stage.optional]
    recorded = {one for stage in trains for one in (*stage.results, *stage.curves, "lr")}
    for loss in term.loss_names:
        if loss in (*recorded, *OF_ALL):
            raise PluginError(f"{where}: loss_names: {loss!r} is recorded of every training; call it otherwise.")
    try:
        return OwnTerm(
            loss_names=list(term.loss_names),
            changes=sorted(term.changes),
            teacher=term.teacher is not None,
            neutral=dict(term.config.neutral),
            version=term.version,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise PluginError(f"{where}: {first['loc'][0]}: {first['input']!r} is not legal: {first['msg']}.") from None


def section_of(plugins: Mapping[str, Plugin]) -> type[Section]:
    """The model of a run's `terms`: a field for each term that there is."""
    fields: dict[str, Any] = {}
    for plugin in plugins.values():
        for term in plugin.terms:
            config = _CONFIGS.get((plugin.digest, term), OpaqueConfig)
            fields[term] = (config, config())
    return create_model("Terms", __base__=Section, __doc__="Loss terms of plugins.", **fields)


def is_imported(plugins: Mapping[str, Plugin]) -> bool:
    """Whether what runs say of these plugins can be checked."""
    return all((plugin.digest, term) in _CONFIGS for plugin in plugins.values() for term in plugin.terms)


def active(terms: Section, plugins: Mapping[str, Plugin]) -> Iterator[tuple[str, Plugin, dict[str, Any]]]:
    """The terms that a run is trained with: name, plugin, and what the run says of it."""
    for plugin in plugins.values():
        for name in plugin.terms:
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

"""The code of plugins: where it is, which files belong to it, and how it is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from contextlib import redirect_stdout
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from star.errors import StarError
from star.spec.base import at_home
from star.words import shown

GROUP = "star.plugins"
"""Group of the entry points that installed plugins declare: name -> module."""


class PluginError(StarError):
    """A plugin that cannot be used; the message begins with its name."""


def place_of(name: str, folder: Path) -> tuple[Path, str]:
    """The folder that a plugin's file names are relative to, and the name of its module.

    Raises:
        PluginError: there is no such file or installed plugin, or the file's name is no name of a module.
    """
    if name.endswith(".py"):
        try:
            given = folder / at_home(name)
        except ValueError as error:
            raise PluginError(str(error)) from None
        path = given.parent.resolve() / given.name  # a link keeps its name
        if not path.is_file():
            raise PluginError(f"{name}: {shown(path)} is no file; give a path from {shown(folder.resolve())}.")
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
    paths = sorted(path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _in(file: Path, places: Iterable[Path]) -> bool:
    return any(file.is_relative_to(place) for place in places)


class _Source(SourceFileLoader):
    """Always compiles the source: Python checks a cached .pyc by whole seconds alone, so it may be stale."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


def import_from(folder: Path, module: str, digest: str, name: str) -> ModuleType:
    """Import a plugin's module from `folder`, once for each content.

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
    spec = importlib.util.spec_from_file_location(
        unique, path, loader=_Source(unique, str(path)), submodule_search_locations=places
    )
    assert spec is not None and spec.loader is not None, "it was given one"
    made = importlib.util.module_from_spec(spec)
    sys.modules[unique] = made  # pydantic and dataclasses look their module up there
    try:
        with redirect_stdout(sys.stderr):  # stdout is the command's own: it may be JSON
            spec.loader.exec_module(made)
            return importlib.import_module(whole)
    except (Exception, SystemExit) as error:  # a plugin's code may raise anything
        for known in [one for one in sys.modules if one == unique or one.startswith(f"{unique}.")]:
            del sys.modules[known]
        at = where(error, folder, module)
        before = "" if at.startswith(f"{Path(name).name}:") else f"{name}: "
        raise PluginError(f"{before}{at}{type(error).__name__}: {error}.") from error


def where(error: BaseException, folder: Path, module: str) -> str:
    """The last line of the plugin that led to an error, as `my_lab.py:12: `; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}: "
    top = module.partition(".")[0]
    own = (folder / top, folder / f"{top}.py")  # beside an installed package lie others
    lines = [line for line in traceback.extract_tb(error.__traceback__) if _in(Path(line.filename), own)]
    return f"{Path(lines[-1].filename).name}:{lines[-1].lineno}: " if lines else ""

"""The files of a script: what is copied, hashed into the key, and goes along with an export."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from star.errors import DataError
from star.spec.scripts import ScriptStage
from star.words import shown


def files_of(name: str, script: ScriptStage) -> dict[str, Path]:
    """Name below the script's folder -> file, in the order of the names.

    Raises:
        DataError: a pattern that matches nothing, or leads out of the folder.
    """
    folder = Path(script.folder)
    found: dict[str, Path] = {}
    for i, pattern in enumerate(script.files):
        where = f"stages.{name}.files.{i}"
        if pattern.startswith("/") or ".." in PurePosixPath(pattern).parts:
            raise DataError(
                f"{where}: {pattern!r} leads out of {shown(folder)}; say where the files are with `folder`."
            )
        matches = [path for path in sorted(folder.glob(pattern)) if path.is_file() and "__pycache__" not in path.parts]
        if not matches:
            raise DataError(
                f"{where}: {pattern!r} matches no file in {shown(folder)}; give names or patterns of files there."
            )
        found |= {path.relative_to(folder).as_posix(): path for path in matches}
    for word in shlex.split(script.command):
        path = folder / word
        if "{" not in word and not word.startswith("/") and ".." not in PurePosixPath(word).parts and path.is_file():
            found[PurePosixPath(word).as_posix()] = path
    return dict(sorted(found.items()))


def contents_of(name: str, script: ScriptStage) -> dict[str, bytes]:
    """Name -> content of each.

    Raises:
        DataError: one cannot be read.
    """
    found = {}
    for inside, path in files_of(name, script).items():
        try:
            found[inside] = path.read_bytes()
        except OSError as error:
            raise DataError(f"stages.{name}: {shown(path)} cannot be read: {error.strerror}.") from None
    return found


def digest_of(contents: Mapping[str, bytes]) -> str:
    """16 hexadecimal digits that name these files with their contents."""
    whole = hashlib.sha256()
    for name, content in sorted(contents.items()):
        whole.update(os.fsencode(name) + f"\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()[:16]

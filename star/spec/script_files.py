"""The files of a script: they are copied, hashed into the key, and part of an export."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from star.errors import DataError
from star.spec.scripts import ScriptStage
from star.words import shown

SCRIPTS = (".py", ".sh", ".r", ".R", ".jl", ".lua", ".js", ".pl", ".m")
"""File endings of scripts. A word of a command that ends so has to name an existing file."""


def files_of(name: str, script: ScriptStage) -> dict[str, Path]:
    """Name below the script's folder -> path of each file of a script, sorted by name.

    Raises:
        DataError: the folder is missing, a pattern matches nothing or leads out of it, or the command names a file
            outside of it or a script that is not there.
    """
    folder = Path(script.folder)
    if not folder.is_dir():
        raise DataError(
            f"stages.{name}.folder: {shown(folder)} is no folder; give the one that holds the script's files."
        )
    found: dict[str, Path] = {}
    for i, pattern in enumerate(script.files):
        where = f"stages.{name}.files.{i}"
        if pattern.startswith("/") or ".." in PurePosixPath(pattern).parts:
            raise DataError(
                f"{where}: {pattern!r} leads out of {shown(folder)}; say where the files are with `folder`."
            )
        try:
            paths = sorted(folder.glob(pattern))
        except (ValueError, IndexError) as error:
            raise DataError(
                f"{where}: {pattern!r} is no pattern of files ({error}); give names or patterns such as lib/**/*.py."
            ) from None
        matches = [path for path in paths if path.is_file() and "__pycache__" not in path.parts]
        if not matches:
            raise DataError(
                f"{where}: {pattern!r} matches no file in {shown(folder)}; give names or patterns of files there."
            )
        found |= {path.relative_to(folder).as_posix(): path for path in matches}
    for i, word in enumerate(shlex.split(script.command)):
        if "{" not in word and (inside := _named(name, word, folder, first=i == 0)) is not None:
            found[inside] = folder / inside
    return dict(sorted(found.items()))


def contents_of(name: str, script: ScriptStage) -> dict[str, bytes]:
    """Name below the script's folder -> content of each file of a script.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    found = {}
    for inside, path in files_of(name, script).items():
        try:
            found[inside] = path.read_bytes()
        except OSError as error:
            raise DataError(f"stages.{name}: {shown(path)} cannot be read: {error.strerror}.") from None
    return found


def listing_of(contents: Mapping[str, bytes]) -> dict[str, str]:
    """Name -> the first 16 hexadecimal digits of the SHA-256 of the content."""
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in sorted(contents.items())}


def digest_of(listing: Mapping[str, str]) -> str:
    """16 hexadecimal digits that identify these files and their contents."""
    return hashlib.sha256(json.dumps(dict(sorted(listing.items()))).encode()).hexdigest()[:16]


def _named(name: str, word: str, folder: Path, first: bool) -> str | None:
    """The file below the script's folder that a word of the command names; None if it names none.

    Raises:
        DataError: it names a file outside, whose content would be in no key, or a script that is not there.
    """
    where, path = f"stages.{name}.command", folder / word
    leads_out = word.startswith("/") or ".." in PurePosixPath(word).parts
    if not leads_out and path.is_file():
        return PurePosixPath(word).as_posix()
    if leads_out and not first and path.is_file():
        raise DataError(
            f"{where}: {word} lies outside of {shown(folder)}, so its content would be in no key; put it there, say with `folder` where "
            "the script's files are, or name data under `reads`."
        )
    if PurePosixPath(word).suffix in SCRIPTS and not first and not path.exists():
        raise DataError(
            f"{where}: {word} is no file in {shown(folder)}; a script is named from there, or `folder` says where its files are."
        )
    return None

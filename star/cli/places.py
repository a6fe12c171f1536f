"""Checks, before anything is computed, that a command can write its output."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from star.errors import StarError
from star.words import shown


def writable(target: Path, option: str) -> Path:
    """Check that `target` can be written, and return it. A missing folder is made; only a file may be there already.

    Raises:
        StarError: it cannot be written; the message says why.
    """
    if not str(target) or str(target) == ".":
        raise StarError(f"{option}: names no file; give one.")
    try:
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "no regular file"
            raise StarError(f"{option} {shown(target)}: is {kind}; name the file to write.")
    except OSError as error:
        raise StarError(f"{option} {shown(target)}: {error.strerror}; give another name.") from None
    writable_folder(target.parent, option)
    return target


def writable_folder(folder: Path, option: str) -> Path:
    """Check that files can be made in `folder`, and return it. It is made if needed.

    Raises:
        StarError: it cannot be written; the message says why.
    """
    probe = folder / f".star.{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(b"\0" * 4096)
            os.fsync(file.fileno())
    except OSError as error:
        raise StarError(f"{option} {shown(folder)}: cannot be written: {error.strerror}; give another place.") from None
    finally:
        try:
            probe.unlink(missing_ok=True)
        except OSError:
            pass
    return folder

"""Fingerprints of given files, remembered: hashing another model's 50,000 images takes longer than a whole report."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from star.rundir import Home, read_json, write_json

SETTLED = 2.0
"""Seconds without a change after which a file's times tell one content from the next, whatever their resolution is."""


class Fingerprints:
    """Of files and folders, by their absolute paths; computed anew when size, inode or time of change is another one.

    The time of change is the file system's own: a content put in place with an old date of modification is seen too.
    """

    def __init__(self, home: Home) -> None:
        self._file = home.path / "fingerprints.json"
        self._known: dict[str, list[str]] = read_json(self._file) or {}

    def of(self, path: Path, compute: Callable[[], str]) -> str:
        """The fingerprint of what is at `path`, which `compute` finds out when it is not remembered."""
        name, (state, newest) = str(path.absolute()), _state(path)
        if self._known.get(name, [""])[0] == state:
            return self._known[name][1]
        found = compute()
        if _state(path)[0] == state and time.time() - newest > SETTLED:
            self._known[name] = [state, found]
            with suppress(
                OSError
            ):  # there is no home yet, or it is another one's to write; and one of two at once is lost
                write_json(self._file, self._known)
        return found


def _state(path: Path) -> tuple[str, float]:
    """(what changes with the content; when it did so last, in seconds since 1970)"""
    paths = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    seen, newest = hashlib.sha256(), 0.0
    for one in paths:
        stat = os.stat(one)
        seen.update(f"{one}\0{stat.st_size}\0{stat.st_ino}\0{stat.st_ctime_ns}\n".encode())
        newest = max(newest, stat.st_ctime)
    return seen.hexdigest(), newest

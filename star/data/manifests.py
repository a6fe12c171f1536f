"""Fingerprints of the contents of given files and folders: each file is read once and remembered until it changes.

HOME/manifests/ID.json         of one input: its path, its fingerprint, the state of its files at that time, and what
                               was found in it
HOME/manifests/ID.files.jsonl  its files: [name, bytes, modification time, change time, inode, SHA-256]

A bundle contains both, so an experiment can be planned and reported where its data is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from star.data.folders import State, Tree
from star.data.splits import Found
from star.errors import DataError
from star.rundir import Home, read_json, write_bytes, write_json
from star.words import shown

SETTLED = 2.0
"""Seconds after its last change from which a file's times identify its content, whatever their resolution is."""
LONG = 1 << 30
"""Reading more bytes than this is announced on stderr."""
READERS = 8
"""Number of files read in parallel."""


class Manifests:
    """The fingerprints of files and folders that a home remembers, so that unchanged files are not read again."""

    def __init__(self, home: Home) -> None:
        self.folder = home.manifests
        self._now: dict[Path, str] = {}
        """Path of a manifest -> the present state of its input; only of inputs that this object has looked at."""
        self._sums: dict[Path, dict[str, str]] = {}
        """Path of a manifest -> SHA-256 of each file (or its size, where `how` is that), of inputs whose files were read."""

    def file(self, path: Path) -> str:
        """SHA-256 of a file's content, 64 hexadecimal digits.

        Raises:
            DataError: it cannot be read.
        """
        try:
            found = path.stat()
            return self._of(path, "content", {"": (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)})
        except OSError as error:
            raise DataError(f"{shown(path)}: cannot be read: {error.strerror}.") from None

    def tree(self, tree: Tree, how: str = "content") -> str:
        """SHA-256 of the names and contents of a folder's files, 64 hexadecimal digits.

        If `how` is `sizes`, it is of names and sizes.

        Raises:
            DataError: a file cannot be read.
        """
        # empty class folders, files that are not images, and links aside change no key, but do change the notes on the data set
        empty = [f"{name}/" for name, images in tree.folders.items() if not images]
        links = [f"{name} leads nowhere" for name in tree.lost] + [f"{name} leads back" for name in tree.back]
        return self._of(tree.root, how, tree.states, "\n".join([*sorted(empty), *tree.strays, *links]))

    def known(self, path: Path, how: str = "content") -> str | None:
        """The last fingerprint of `path`, which need not exist any more; None if there is none."""
        found = _header(self._place(path, how))
        return str(found["fingerprint"]) if found else None

    def found(self, path: Path, how: str, asked: str) -> Found | None:
        """What was found in `path` for the spec `asked`; None if unknown, or if `path` changed since its manifest."""
        place = self._place(path, how)
        header = _header(place)
        if self._now.get(place, header.get("state")) != header.get("state"):
            return None
        known = header.get("found", {}).get(asked)
        try:
            return None if known is None else Found(**known)
        except TypeError:  # another version's, or damaged: it is looked at again
            return None

    def keep_found(self, path: Path, how: str, asked: str, found: Found) -> None:
        """Remember what was found in `path` for the spec `asked`, unless `path` has no current manifest."""
        place = self._place(path, how)
        known = _header(place)
        if known and known["state"] == self._now.get(place):
            known["found"][asked] = asdict(found)
            with suppress(OSError):
                write_json(place, known, durable=False)

    def twins(self, path: Path, how: str, first: Iterable[str], second: Iterable[str]) -> list[tuple[str, str]]:
        """Pairs of files of `path` with one content, one of the names `first` and one of `second`; none where sizes alone are known."""
        place = self._place(path, how)
        if how == "sizes":
            return []
        sums = self._sums.get(place) or {name: known for name, (_, known) in _remembered(place).items()}
        of = {sums[name]: name for name in first if name in sums}
        return [(of[sums[name]], name) for name in second if sums.get(name) in of]

    def files(self, path: Path, how: str) -> list[Path]:
        """The manifest files of `path` that exist."""
        place = self._place(path, how)
        return [one for one in (place, _table(place)) if one.exists()]

    def _place(self, path: Path, how: str) -> Path:
        name = hashlib.sha256(os.fsencode(path.absolute()) + how.encode()).hexdigest()[:16]
        return self.folder / f"{name}.json"

    def _of(self, path: Path, how: str, entries: Mapping[str, State], beside: str = "") -> str:
        place = self._place(path, how)
        state = self._now[place] = _digest(entries, beside)
        known = _header(place)
        if known and known["state"] == state:
            return str(known["fingerprint"])
        newest = max((entry[2] for entry in entries.values()), default=0) / 1e9
        # decided before reading: a file that changes meanwhile gets another state
        settled = time.time() - newest > SETTLED
        if how == "sizes":
            sums = {name: str(entry[0]) for name, entry in entries.items()}
        else:
            sums = self._sums[place] = _sums(path, entries, _remembered(place))
        fingerprint = sums[""] if "" in sums else _fingerprint(sums)
        if settled:
            self._keep(place, path, how, state, fingerprint, entries, sums)
        return fingerprint

    def _keep(
        self,
        place: Path,
        path: Path,
        how: str,
        state: str,
        fingerprint: str,
        entries: Mapping[str, State],
        sums: dict[str, str],
    ) -> None:
        header = {"path": str(path.absolute()), "how": how, "state": state, "fingerprint": fingerprint, "found": {}}
        lines = (json.dumps([name, *entry, sums[name]]) for name, entry in sorted(entries.items()))
        # without a home, or with a read-only one, nothing is remembered
        if not self.folder.parent.is_dir():
            return
        with suppress(OSError):
            self.folder.mkdir(exist_ok=True)
            write_bytes(_table(place), "".join(f"{line}\n" for line in lines).encode(), durable=False)
            write_json(place, header, durable=False)


def _header(place: Path) -> dict[str, Any]:
    """The manifest of an input; empty if it is missing or damaged."""
    found = read_json(place)
    whole = (
        isinstance(found, dict) and {"state", "fingerprint"} <= found.keys() and isinstance(found.get("found"), dict)
    )
    return found if whole else {}


def _table(place: Path) -> Path:
    return place.with_suffix(".files.jsonl")


def _digest(entries: Mapping[str, State], beside: str) -> str:
    whole = "\n".join([f"{name}\0{entry}" for name, entry in sorted(entries.items())])
    return hashlib.sha256(os.fsencode(f"{whole}\n\n{beside}")).hexdigest()


def _fingerprint(sums: Mapping[str, str]) -> str:
    return hashlib.sha256(os.fsencode("\n".join(f"{name}\0{sums[name]}" for name in sorted(sums)))).hexdigest()


def _remembered(place: Path) -> dict[str, tuple[State, str]]:
    def rows() -> Iterator[tuple[str, tuple[State, str]]]:
        with _table(place).open() as file:
            for line in file:
                name, *entry, known = json.loads(line)
                yield name, ((entry[0], entry[1], entry[2], entry[3]), known)

    try:
        return dict(rows())
    except (OSError, ValueError, IndexError):
        return {}


def _sums(path: Path, entries: Mapping[str, State], known: Mapping[str, tuple[State, str]]) -> dict[str, str]:
    """SHA-256 of every file; unchanged files are not read, and theirs is taken from `known`."""
    sums = {name: known[name][1] for name, entry in entries.items() if name in known and known[name][0] == entry}
    rest = [name for name in entries if name not in sums]
    size = sum(entries[name][0] for name in rest)
    if size > LONG:
        sys.stderr.write(
            f"reading {size / 1e9:,.1f} GB of {shown(path)} once, to know it by its content; `data.manifest: sizes` goes by names and "
            "sizes\n"
        )

    def read(name: str) -> str:
        file = path / name if name else path
        try:
            with file.open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{shown(file)}: cannot be read: {error.strerror}.") from None

    with ThreadPoolExecutor(READERS) as pool:
        sums.update(zip(rest, pool.map(read, rest), strict=True))
    return sums

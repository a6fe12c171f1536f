"""SQLite files: their URLs, for any path, and connections that only read.

A reader changes nothing: it switches no journal mode and leaves no file beside the database. In write-ahead mode SQLite
would create the index that readers share with writers, which needs a writable folder and room on its disk, and might
belong to the wrong user afterwards. Where there is none yet, nobody writes, and the file is read as it is.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL

TIMEOUT = 30.0
"""Seconds to wait for a writer."""
DAMAGED = ("malformed", "not a database", "no such table", "no such column", "encrypted")
"""Words in SQLite's errors on a file that is no SQLite file, or incomplete; not those on a lock or a failing disk."""
LOOKED_AT = "select count(*) from sqlite_master"


def url_of(path: Path) -> str:
    """Return SQLAlchemy's URL of a SQLite file; characters that mean something in a URL are encoded."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a connection that does not change the database: read-only, or to a copy where SQLite would have to write.

    Raises:
        sqlite3.Error: there is no database, it is locked, or it is damaged.
    """
    if _has_wal(path) and not any(_beside(path, ending).exists() for ending in ("-wal", "-shm")):
        return _opened(path, "immutable=1")
    try:
        return _opened(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if not path.is_file() or "locked" in str(error):
            raise
    return _opened(copy_to_read(path), "mode=rw")


def _has_wal(path: Path) -> bool:
    """Whether a database is in write-ahead mode, from its header."""
    try:
        with path.open("rb") as file:
            return file.read(20)[18:20] == b"\2\2"
    except OSError:
        return False


def folder_in_memory() -> Path:
    """A new folder in memory, or else among the temporary ones; deleted when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="star-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def copy_to_read(path: Path) -> Path:
    """Copy a database into memory, or else a temporary folder; returns the copy, deleted when this process ends."""
    folder = folder_in_memory()
    # what is not committed is rolled back in the copy
    for file in (path, _beside(path, "-wal"), _beside(path, "-journal")):
        if file.exists():
            shutil.copyfile(file, folder / file.name)
    return folder / path.name


def put_aside(path: Path, folder: Path) -> Path:
    """Move a database, and the files that SQLite keeps beside it, into `folder`; returns its new path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}"
    for ending in ("", "-wal", "-shm", "-journal"):
        if _beside(path, ending).exists():
            _beside(path, ending).rename(_beside(target, ending))
    return target


def is_damage(said: str) -> bool:
    """Whether an error message of SQLite means that the file is damaged, and not only that it cannot be read now."""
    return any(sign in said for sign in DAMAGED)


def damage(path: Path) -> str | None:
    """Return what is wrong with a database file, by SQLite's `quick_check`; None where it is sound or missing.

    Raises:
        sqlite3.Error: it cannot be read now, as when it is locked, so that its state is unknown.
    """
    if not path.exists():
        return None
    if not path.is_file():
        return "it is no file"
    try:
        connection = connect_to_read(path)
        try:
            found = str(connection.execute("pragma quick_check(1)").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error as error:
        if not is_damage(str(error)):
            raise
        return str(error)
    return None if found == "ok" else found.splitlines()[-1]


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _opened(path: Path, how: str) -> sqlite3.Connection:
    address = f"file:{quote(os.fsencode(path.absolute()))}?{how}"
    connection = sqlite3.connect(address, uri=True, timeout=TIMEOUT, check_same_thread=False)
    try:
        connection.execute(LOOKED_AT)
    except sqlite3.Error:
        connection.close()
        raise
    return connection

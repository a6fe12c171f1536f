"""Turns failures outside of this program into one sentence: disks, databases, MLflow, output that nobody reads."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from star.errors import StarError
from star.words import shown

TRACEBACK = "STAR_TRACEBACK"
"""Environment variable: if it is set, such a failure prints its traceback."""


def guarded(work: Callable[[], object]) -> int:
    """Run a command; a failure becomes one sentence on stderr.

    Returns:
        The exit code: 2 for what the user, or the machine's owner, can fix; 130 after Ctrl-C, or when the reader of the output left.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # the parent process may have closed them
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a label may have letters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _finished(work)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        be_silent()
        return 130
    except Exception as error:
        told = sentence(error)
        if told is None or os.environ.get(TRACEBACK):
            raise
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            be_silent()  # the output itself may be on the full disk
        click.echo(f"error: {told}", err=True)
        return 2


def _finished(work: Callable[[], object]) -> int:
    try:
        work()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def be_silent() -> None:
    """Discard what is printed from now on, because nobody can read it. Python's own last flush then does not fail."""
    with open(os.devnull, "w") as nowhere:
        try:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        except (OSError, ValueError, AttributeError):  # there is no stdout
            return


def sentence(error: Exception) -> str | None:
    """The sentence to show a user for an error; None for an error of the program itself."""
    if isinstance(error, StarError):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return f"a name here is no UTF-8 text ({shown(error.object)[:200]}); rename that file or folder."
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    family = type(error).__module__.partition(".")[0]
    if family == "mlflow":
        return f"MLflow: {shown(first)}; `mlflow doctor` tells more, and STAR_TRACEBACK=1 where."
    if family in ("sqlalchemy", "sqlite3", "psycopg", "optuna", "alembic"):
        return f"a database cannot be used: {shown(first)}; STAR_TRACEBACK=1 tells which, and where."
    return None


def _of_system(error: OSError) -> str | None:
    name = shown(error.filename2 or error.filename or "")
    if error.errno == errno.ENOSPC:
        if not name:
            return "no space is left where this output, or a file of it, should go; make room and run the same command again."
        from star.rundir import disk_full

        return disk_full(Path(os.fsdecode(error.filename2 or error.filename)))
    if error.errno is None:
        return None
    where = f"{name}: " if name else ""
    hints = {
        errno.EACCES: "; ask its owner, or give another place",
        errno.EPERM: "; ask its owner, or give another place",
        errno.EROFS: "; give another place",
        errno.ENAMETOOLONG: "; give a shorter name",
        errno.ENOTDIR: "; a file stands where a folder should be",
        errno.EISDIR: "; a folder stands where a file should be",
        errno.EEXIST: "; something else stands there",
    }
    return f"{where}{error.strerror or os.strerror(error.errno)}{hints.get(error.errno, '')}."

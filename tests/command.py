"""`python -m tests.command FOLDER`: a program of ours, as FOLDER/command.json asks for it, with its output in files of FOLDER.

A test runs hundreds of commands, and most of a command's time goes into importing other people's libraries. Forked from a process
that has them (`star.fork_server`, as workers are), a command is otherwise what `python -m MODULE ARGUMENTS` is: it has imported
nothing of `star` before.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.torch_forks import fork_servers

PRELOAD = (
    "numpy.random",
    "pandas",
    "pyarrow",
    "yaml",
    "requests",
    "fastapi",
    "opentelemetry.sdk.trace",
    "alembic.command",
    "sqlalchemy.orm",
    "sqlalchemy.dialects.sqlite",
    "pydantic.v1",
    "matplotlib.figure",
    "seaborn",
    "rich.table",
    "scipy.linalg",
    "torch._dynamo",
    "mlflow.tracking.client",
    "mlflow.store.tracking.sqlalchemy_store",
)


def run_module(
    module: str, *arguments: str, environment: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run it to its end.

    Raises:
        subprocess.TimeoutExpired: it took more than 300 s, and was killed.
    """
    from tests.forked import Forked  # needs `star`, which the process that forks must not have

    with TemporaryDirectory(prefix="star-command-") as name:
        folder = Path(name)
        (folder / "command.json").write_text(json.dumps([module, *arguments]))
        code = Forked(folder, folder / "log.txt", "tests.command", environment, cwd).wait(300)
        out, err, log = (
            (folder / one).read_text() if (folder / one).exists() else "" for one in ("out.txt", "err.txt", "log.txt")
        )
        return subprocess.CompletedProcess([module, *arguments], code, out, err + log)


def main(folder: Path) -> None:
    """Become the program."""
    fork_servers()
    module, *arguments = json.loads((folder / "command.json").read_text())
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        file = os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.argv = [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        raise
    finally:  # as the interpreter does when it ends
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for connection in [one for one in gc.get_objects() if isinstance(one, sqlite3.Connection)]:
            connection.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

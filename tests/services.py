"""Real servers for tests, on this machine and on free ports: PostgreSQL, Slurm, an MLflow server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
    """Wait."""
    deadline = time.time() + timeout
    while not condition():
        assert time.time() < deadline, f"{what}: nothing after {timeout:.0f} s"
        time.sleep(0.05)


class Postgres:
    """A PostgreSQL server of one's own, as its own user where the tests run as root (PostgreSQL refuses root)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.port = folder, folder / "data", free_port()
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        for parent in folder.parents:  # pytest makes its folders for their owner alone
            if os.getuid() == 0 and str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        self._run(find_postgres("initdb"), "-D", self.data, "-A", "trust", "-U", "star", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\n")
        self.start()
        self.databases = 0

    def _run(self, *command: object) -> None:
        done = subprocess.run([*self._as, *map(str, command)], capture_output=True, text=True, timeout=120, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start the server; returns when it answers."""
        command = (find_postgres("pg_ctl"), "-D", self.data, "-l", self.folder / "log", "-w", "start")
        done = subprocess.run([*self._as, *map(str, command)], stdout=subprocess.DEVNULL, timeout=120, cwd="/")
        assert done.returncode == 0, (self.folder / "log").read_text()

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        self._run(find_postgres("pg_ctl"), "-D", self.data, "-m", "immediate", "-w", "stop")

    def new_database(self) -> str:
        """The address of an empty database."""
        import psycopg

        self.databases += 1
        name = f"star_{os.getpid()}_{self.databases}"
        with psycopg.connect(f"postgresql://star@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return f"postgresql://star@127.0.0.1:{self.port}/{name}"


def find_postgres(program: str) -> str:
    """The path of one of PostgreSQL's programs; Debian keeps them off the PATH."""
    found = [*Path("/usr/lib/postgresql").glob(f"*/bin/{program}")]
    return str(found[-1]) if found else shutil.which(program) or ""

"""Brings a ledger's tables to the newest migration. Schedulers and commands that write call it; readers never do."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, text

from star.errors import LedgerError
from star.ledger.database import HEAD, Database

LOCK = 0x57A2
"""PostgreSQL's advisory lock for migrations."""


def migrate(database: Database) -> None:
    """Create the tables, or upgrade older ones, in one transaction and by one process at a time.

    Raises:
        LedgerError: the ledger is newer than this program.
    """
    if database.sqlite:
        Path(database.url.database or "").parent.mkdir(parents=True, exist_ok=True)
    version = database.version()
    if version == HEAD:
        return
    _refuse_newer(database, version)
    with _alone(database) as connection:
        _upgrade(connection, "alembic_version")


def check(database: Database) -> None:
    """Check that the ledger has this program's version.

    Raises:
        LedgerError: the ledger is older or newer than this program.
    """
    version = database.version()
    if version != HEAD:
        _refuse_newer(database, version)
        raise LedgerError(
            f"the ledger {database.name} was written by an older star; `star-exp run` or `star-exp reindex` brings it up to date."
        )


def _refuse_newer(database: Database, version: str | None) -> None:
    if version and version not in {f"{number:04d}" for number in range(1, int(HEAD) + 1)}:
        raise LedgerError(
            f"the ledger {database.name} was written by a newer star (its tables are {version}, this one knows "
            f"{HEAD}), or is of another program; "
            "update star, or put the file away: `star-exp reindex` makes a ledger of this version from the jobs' folders."
        )


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    if not database.sqlite:
        with database.transaction() as connection:
            connection.execute(text(f"select pg_advisory_xact_lock({LOCK})"))
            yield connection
        return
    with Path(f"{database.url.database}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with database.transaction() as connection:
            yield connection


def _upgrade(connection: Connection, table: str) -> None:
    from alembic import command
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)  # its INFO lines would break the live view
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    dialect = connection.engine.dialect
    if dialect.has_table(connection, "jobs") and not dialect.has_table(connection, table):
        command.stamp(config, "0001")  # made before there were migrations
    command.upgrade(config, "head")

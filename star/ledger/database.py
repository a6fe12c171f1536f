"""The database behind the ledger: SQLite in the home, or PostgreSQL for a team.

If a connection breaks, nothing is lost: transactions are tried again until the database is back or patience ends.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, NullPool, Table, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from star.errors import DamagedError, LedgerError
from star.ledger.tables import metadata
from star.sqlite_file import connect_to_read, is_damage, url_of
from star.words import shown

HEAD = "0003"
"""The newest migration; a constant, so that readers need no Alembic."""
URL_VARIABLE = "STAR_LEDGER_URL"
T = TypeVar("T")
log = logging.getLogger(__name__)


class Database:
    """A SQLite or PostgreSQL database.

    Args:
        url: such as sqlite:////home/me/runs/ledger.sqlite or postgresql://user@host/name.
        patience: seconds for which transactions are tried again if the database is unreachable, locked or full.
        to_read: whether to change nothing, not even a file beside a SQLite database.

    Raises:
        LedgerError: the URL is invalid, or its driver is not installed.
    """

    def __init__(self, url: str, patience: float = 600.0, to_read: bool = False) -> None:
        try:
            self.url = make_url(url)
            if self.url.drivername in ("postgresql", "postgres"):
                self.url = self.url.set(drivername="postgresql+psycopg")
            self.sqlite = self.url.get_backend_name() == "sqlite"
            if not self.sqlite and self.url.get_backend_name() != "postgresql":
                raise LedgerError(
                    f"{URL_VARIABLE}: {self.name}: give an address that begins with sqlite or postgresql."
                )
            if self.sqlite and self.url.database in (None, "", ":memory:"):
                raise LedgerError(f"{URL_VARIABLE}: names no file; give one such as sqlite:////home/me/ledger.sqlite.")
            options: dict[str, Any] = {"connect_args": {"timeout": 30}} if self.sqlite else {"pool_pre_ping": True}
            if self.file and to_read:
                options = {"creator": partial(connect_to_read, self.file), "poolclass": NullPool}
            self.engine = create_engine(self.url, **options)
        except ModuleNotFoundError as error:
            raise LedgerError(
                f"{URL_VARIABLE}: {error.name} is not installed; `pip install -e '.[postgres]'` in star's clone brings it."
            ) from None
        except (ArgumentError, NoSuchModuleError, ValueError):  # the message may hold a password, so it is not shown
            raise LedgerError(
                f"{URL_VARIABLE}: what it holds is no database address; give one such as postgresql://user@host/name."
            ) from None
        self.patience, self.to_read = patience, to_read
        if self.sqlite and not to_read:
            event.listen(self.engine, "connect", _configure)

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database; None for PostgreSQL."""
        return Path(self.url.database) if self.sqlite and self.url.database else None

    @property
    def name(self) -> str:
        """The file or URL for messages, without the password."""
        return shown(self.file) if self.file else self.url.render_as_string(hide_password=True)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that only reads, and return its result."""

        def once() -> T:
            with self.engine.connect() as connection:
                return work(connection)

        return self._insist(once)

    def write(self, work: Callable[[Connection], T], already: Callable[[Connection], T | None] | None = None) -> T:
        """Run `work` in one transaction, and return its result.

        Args:
            already: called before a second try, since the first may have been committed; returns the result if it was,
                else None. Not needed for work that may be done twice.
        """
        tried = False

        def once() -> T:
            nonlocal tried
            with self.transaction() as connection:
                if tried and already is not None:
                    found = already(connection)
                    if found is not None:
                        return found
                tried = True
                return work(connection)

        return self._insist(once)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that may write. On SQLite it takes the lock first, so that writers cannot deadlock."""
        if not self.sqlite:
            with self.engine.begin() as connection:
                yield connection
            return
        with self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(DBAPIError):  # after the commit there is nothing to roll back; the first error is raised
                    connection.exec_driver_sql("ROLLBACK")
                raise

    def insert(self, table: Table) -> Any:
        """An INSERT in this database's dialect, which supports ON CONFLICT."""
        if self.sqlite:
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
        return insert(table)

    def version(self) -> str | None:
        """The database's migration; None if it is empty, "" if the ledger is older than migrations.

        Raises:
            LedgerError: it holds another program's tables.
            DamagedError: tables or the version are missing.
        """

        def work(connection: Connection) -> str | None:
            tables = set(self.engine.dialect.get_table_names(connection))
            own = {table.name for table in metadata.sorted_tables}
            # every ledger had these two; MLflow too has jobs, runs and experiments
            if tables and not tables & {"history", "tracked"}:
                raise LedgerError(
                    f"{self.name} holds another program's tables ({', '.join(sorted(tables)[:3])}{', ...' * (len(tables) > 3)}); "
                    f"give an empty database in {URL_VARIABLE}, or put the file away."
                )
            if "alembic_version" in tables:
                found = connection.execute(text("select version_num from alembic_version")).scalar()
                lacks = own - tables
                if found is None or (found == HEAD and lacks):
                    raise self.damaged(f"it lacks {', '.join(sorted(lacks))}" if lacks else "its version is lost")
                return str(found)
            return "" if "jobs" in tables else None

        return self.read(work)

    def damaged(self, what: str) -> DamagedError:
        """The error for a damaged ledger, with the remedy; `what` says what is wrong."""
        remedy = (
            "`star-exp reindex` puts it aside and rebuilds it from the jobs' folders, which hold all results"
            if self.sqlite
            else "restore its backup, or give an empty database: `star-exp reindex` fills that from the jobs' folders"
        )
        return DamagedError(f"the ledger {self.name} is damaged ({what})", remedy)

    def _insist(self, once: Callable[[], T]) -> T:
        deadline = time.monotonic() + self.patience
        pause, told, again = 0.05, False, False
        while True:
            try:
                return once()
            except (OperationalError, InterfaceError, DBAPIError) as error:
                if is_damage(_said(error)) or (self.file and self.file.is_dir()):
                    if self.to_read and not again:  # a writer may have changed the file between two reads
                        again = True
                        time.sleep(0.1)
                        continue
                    raise self.damaged(_said(error)) from None
                if self.file and not shutil.disk_usage(_folder(self.file)).free and time.monotonic() > deadline:
                    raise LedgerError(
                        f"the disk of {self.name} is full; make room (`star-exp gc` lists what may go): the same command goes on."
                    ) from None
                if not isinstance(error, OperationalError | InterfaceError) and not error.connection_invalidated:
                    raise
                if _is_hopeless(error):
                    raise LedgerError(f"the ledger {self.name}: {_said(error)}.") from None
                if time.monotonic() > deadline:
                    raise LedgerError(
                        f"the ledger {self.name} cannot be reached ({_said(error)}); nothing is lost: "
                        "the same command goes on when it is back."
                    ) from None
                if not told:
                    full = self.file is not None and not shutil.disk_usage(_folder(self.file)).free
                    said = "the disk is full" if full else f"is away ({_said(error)})"
                    log.warning("the ledger %s %s; trying again", self.name, said)
                    told = True
                time.sleep(pause)
                pause = min(2 * pause, 2.0)


def address(path: Path) -> str:
    """URL of a ledger: STAR_LEDGER_URL if it is set, else of the SQLite file `path`."""
    return os.environ.get(URL_VARIABLE) or url_of(path)


def _folder(path: Path) -> Path:
    """The nearest parent folder that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def _said(error: DBAPIError) -> str:
    return str(error.orig).strip().split("\n")[0]


def _is_hopeless(error: DBAPIError) -> bool:
    """Whether a retry cannot help: wrong password, no such database, read-only file."""
    said = str(error.orig)
    signs = ("password", "does not exist", "readonly", "no pg_hba")
    return any(sign in said for sign in signs)


def _configure(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver would begin transactions itself, and too late
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA synchronous=NORMAL")

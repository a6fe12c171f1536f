"""The ledger of jobs, runs and schedulers. Only the scheduler and the commands that change states write it."""

from __future__ import annotations

from sqlalchemy import Connection, select

from star.errors import LedgerError, NotFoundError
from star.ledger.database import Database, address
from star.ledger.jobs import Jobs
from star.ledger.runs import Runs
from star.ledger.schedulers import Schedulers
from star.ledger.tables import facts
from star.rundir import Home, read_json
from star.words import shown

WRITE_PATIENCE = 600.0
"""Seconds for which a writer waits for an unreachable database: a scheduler outlives a restart of its database."""
READ_PATIENCE = 5.0
"""Seconds for which a reader waits for an unreachable database."""


class Ledger:
    """A ledger in one database: its jobs, its runs with their experiments, and the schedulers at work."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs, self.runs, self.schedulers = Jobs(database), Runs(database), Schedulers(database)

    def resolve(self, prefix: str) -> tuple[str, str]:
        """("run" or "job", key) of the run or job whose key starts with `prefix`, which may be `stage-key` too.

        Raises:
            NotFoundError: no key or several keys start with it.
        """
        start = prefix.rsplit("-", 1)[-1]
        found = [("run", key) for key in self.runs.that_start(start)] + [
            ("job", key) for key in self.jobs.that_start(start)
        ]
        if len(found) != 1 or not start:
            some = ", ".join(f"{kind} {key}" for kind, key in found[:5])
            count = "many" if len(found) > 5 else len(found)
            what = f"begins {count} keys: {some}; give more of it" if some else "begins no key of a run or a job"
            raise NotFoundError(f"{prefix!r} {what}; `star-exp status` prints them.")
        return found[0]

    def bind(self, home: Home) -> None:
        """Tie this ledger to a home: a ledger belongs to one folder of jobs.

        Raises:
            LedgerError: the ledger belongs to another home.
        """
        held = self.database.read(lambda connection: {row.name: row.value for row in connection.execute(select(facts))})
        mine = home.identity(held.get("home") if self.database.file == home.ledger else None)

        def work(connection: Connection) -> tuple[str, str]:
            known = {row.name: row.value for row in connection.execute(select(facts))}
            if "home" not in known:  # of two processes that bind at once, the first wins
                rows = [{"name": "home", "value": mine}, {"name": "path", "value": shown(home.path)}]
                connection.execute(self.database.insert(facts).values(rows).on_conflict_do_nothing())
                known = {row.name: row.value for row in connection.execute(select(facts))}
            return known["home"], known["path"]

        bound, path = self.database.write(work)
        if bound != mine:
            raise self._anothers(path, home)

    def check_bound(self, home: Home) -> None:
        """Check that this ledger belongs to `home`, as far as that is known without writing.

        Raises:
            LedgerError: the ledger belongs to another home.
        """
        held = self.database.read(lambda connection: {row.name: row.value for row in connection.execute(select(facts))})
        mine = read_json(home.path / "home.json")
        if isinstance(mine, dict) and held.get("home") not in (None, mine.get("id")):
            raise self._anothers(str(held.get("path")), home)

    def _anothers(self, path: str, home: Home) -> LedgerError:
        return LedgerError(
            f"the ledger {self.database.name} belongs to the home {path}, not to {shown(home.path)}; "
            "give that one with --home, or another database with STAR_LEDGER_URL."
        )


def open_ledger(home: Home) -> Ledger:
    """Open the home's ledger for writing; it is created if missing and upgraded if older.

    Raises:
        LedgerError: it cannot be reached, is newer than this program, or belongs to another home.
    """
    from star.ledger.migrate import migrate

    home.begin()
    database = Database(address(home.ledger), READ_PATIENCE)  # fail soon if it cannot be reached at all
    migrate(database)
    database.patience = WRITE_PATIENCE
    ledger = Ledger(database)
    ledger.bind(home)
    return ledger


def read_ledger(home: Home) -> Ledger | None:
    """Open the home's ledger for reading; None if nothing ever ran there.

    Raises:
        LedgerError: it cannot be reached, or its version is not this program's.
    """
    database = Database(address(home.ledger), READ_PATIENCE, to_read=True)
    if database.file and not database.file.exists():
        return None
    if database.version() is None:
        return None
    from star.ledger.migrate import check

    check(database)
    return Ledger(database)

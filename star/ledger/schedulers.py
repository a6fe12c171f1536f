"""The schedulers that are at work on a ledger."""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid

from sqlalchemy import delete, select, update

from star.ledger.database import Database
from star.ledger.states import SchedulerInfo
from star.ledger.tables import schedulers
from star.process import process_born
from star.words import shown


class Schedulers:
    """The schedulers of a ledger, living and dead."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def enter(self, executor: str) -> SchedulerInfo:
        """Make this process known as a scheduler."""
        pid = os.getpid()
        me = SchedulerInfo(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=pid,
            born=process_born(pid) or "",
            executor=executor,
            command=shown(" ".join(sys.argv)),
            beats=0,
            seen=time.time(),
        )
        row = (
            self.database.insert(schedulers).values(**me.__dict__).on_conflict_do_nothing()
        )  # asked twice, entered once
        self.database.write(lambda connection: connection.execute(row))
        return me

    def beat(self, me: SchedulerInfo) -> None:
        """Tell the others that this scheduler lives."""
        statement = (
            update(schedulers).where(schedulers.c.id == me.id).values(beats=schedulers.c.beats + 1, seen=time.time())
        )
        self.database.write(lambda connection: connection.execute(statement))

    def leave(self, me: SchedulerInfo) -> None:
        """The end of a scheduler. What it still owns may be adopted at once."""
        self.database.write(lambda connection: connection.execute(delete(schedulers).where(schedulers.c.id == me.id)))

    def all(self) -> dict[str, SchedulerInfo]:
        """All that have not left, the dead ones among them."""
        query = select(schedulers)
        return self.database.read(
            lambda connection: {row.id: SchedulerInfo(**row._mapping) for row in connection.execute(query)}
        )

"""The schedulers that work on a ledger."""

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
    """The schedulers registered in a ledger, also those that died."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def enter(self, executor: str) -> SchedulerInfo:
        """Register this process as a scheduler."""
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
        )  # a retry adds no second row
        self.database.write(lambda connection: connection.execute(row))
        return me

    def beat(self, me: SchedulerInfo) -> None:
        """Record a heartbeat, by which other schedulers see that this one is alive."""
        statement = (
            update(schedulers).where(schedulers.c.id == me.id).values(beats=schedulers.c.beats + 1, seen=time.time())
        )
        self.database.write(lambda connection: connection.execute(statement))

    def leave(self, me: SchedulerInfo) -> None:
        """Unregister a scheduler; jobs that it still owns may be adopted at once."""
        self.database.write(lambda connection: connection.execute(delete(schedulers).where(schedulers.c.id == me.id)))

    def all(self) -> dict[str, SchedulerInfo]:
        """Id -> scheduler, for all that have not left, also those that died."""
        query = select(schedulers)
        return self.database.read(
            lambda connection: {row.id: SchedulerInfo(**row._mapping) for row in connection.execute(query)}
        )

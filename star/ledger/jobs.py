"""Jobs and their states. Every change of a state goes through `move` or `claim`, which are one statement each.

A change names the state, attempt and owner that it starts from, and happens only if they still hold. So two
schedulers never both start a job, and a scheduler that was believed dead cannot undo what its successor did.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, func, insert, or_, select, text, update

from star.chunks import chunks
from star.ledger.database import Database
from star.ledger.states import (
    ADOPTED,
    AGAIN,
    ASKED,
    DONE,
    LOCAL,
    QUEUED,
    RUNNING,
    STARTED,
    TRANSITIONS,
    Allocation,
    Job,
    NewJob,
    Taken,
)
from star.ledger.tables import history, jobs

T = TypeVar("T")
CHUNK = 5000
"""Most keys in one query: databases have limits."""
COLUMNS = [column for column in jobs.c if column.name != "content"]


class Place(NamedTuple):
    """The part of a job that a scheduler polls."""

    state: str
    attempt: int
    owner: str | None
    wish: str | None


def _at(executor: str, host: str | None) -> ColumnElement[bool]:
    """What shares room: the jobs on a machine, or all of an executor that has machines of its own."""
    if executor == LOCAL:
        return jobs.c.host == host
    mine = jobs.c.executor == executor
    return mine if host is None else mine | (jobs.c.host == host)


def _job(row: Row[Any]) -> Job:
    """A job as the ledger has it; a scheduler of the former version may still write `@slurm` as a host."""
    values = dict(row._mapping)
    if values["executor"] is None and (values["host"] or "").startswith("@"):
        values |= {"executor": values["host"].removeprefix("@"), "host": None}
    return Job(**values)


MEASURED = (jobs.c.state == DONE, jobs.c.attempt == 1, jobs.c.finished > jobs.c.started)
"""Jobs whose time tells what such a job takes."""


class Jobs:
    """The ledger's jobs."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, new: Sequence[NewJob]) -> None:
        """Queue each job that the ledger does not know yet."""

        def work(connection: Connection) -> None:
            now = time.time()
            for part in chunks(new, CHUNK // 10):
                rows = [
                    {
                        "key": job.key,
                        "stage": job.stage,
                        "label": job.label,
                        "flops": job.flops,
                        "content": job.content,
                        "state": QUEUED,
                        "attempt": job.attempt,
                        "created": now,
                    }
                    for job in part
                ]
                added = connection.execute(
                    self.database.insert(jobs).values(rows).on_conflict_do_nothing().returning(jobs.c.key)
                ).all()
                if added:
                    connection.execute(
                        insert(history),
                        [_entry(row.key, 0, None, QUEUED, ASKED, "asked for", None) for row in added],
                    )

        if new:
            self.database.write(work)

    def of(self, keys: Iterable[str] | None = None) -> dict[str, Job]:
        """All jobs, or those with the given keys, oldest first."""
        found = self._select(COLUMNS, keys, order=True)
        return {row.key: _job(row) for row in found}

    def places(self, keys: Iterable[str] | None = None) -> dict[str, Place]:
        """State, attempt, owner and wish of all jobs, or of those with the given keys; cheaper than `of`."""
        found = self._select([jobs.c.key, jobs.c.state, jobs.c.attempt, jobs.c.owner, jobs.c.wish], keys)
        return {row.key: Place(row.state, row.attempt, row.owner, row.wish) for row in found}

    def contents(self, stage: str) -> dict[str, Any]:
        """Key -> the content that the key was made of, for all jobs of a stage, oldest first."""
        query = select(jobs.c.key, jobs.c.content).where(jobs.c.stage == stage).order_by(jobs.c.created)
        return self.database.read(lambda connection: {row.key: row.content for row in connection.execute(query)})

    def contents_of(self, keys: Iterable[str]) -> dict[str, Any]:
        """Key -> the content that the key was made of, for the given jobs that have it in the ledger."""
        return {row.key: row.content for row in self._select([jobs.c.key, jobs.c.content], keys) if row.content}

    def move(self, job: Job, after: str, why: str, reason: str, **fields: Any) -> Job | None:
        """Change `job`'s state to `after`.

        Returns:
            The job as it is now; None if state, attempt or owner are no longer what `job` says.
        """
        assert after in TRANSITIONS[job.state], f"{job.state} -> {after} is no transition"
        assert after != RUNNING, "a job begins to run by `claim`"
        values: dict[str, Any] = {
            "state": after,
            "why": why,
            "wish": None,
            "slots": 0,
            "gpus": None,
            "executor": None,
            "host": None,
            "not_before": None,
        }
        if after != QUEUED:
            values["finished"] = time.time()
        elif why == AGAIN:
            values |= {"error": None, "error_class": None}
        values |= fields
        return replace(job, **values) if self._change(job, after, job.attempt, why, reason, None, values) else None

    def claim(
        self, job: Job, owner: str, reason: str, wants: Allocation, limits: tuple[int, dict[str, int]] | None = None
    ) -> Job | None:
        """Begin the next attempt of a queued job, for `owner`.

        Args:
            wants: what the job will hold on its machine.
            limits: CPU slots and bytes per GPU of that machine; running jobs of all schedulers count. None: no limits.

        Returns:
            The job as it is now; None if another scheduler was first, or if the machine has no room any more.
        """
        values: dict[str, Any] = {
            "state": RUNNING,
            "why": STARTED,
            "attempt": job.attempt + 1,
            "owner": owner,
            "executor": wants.executor,
            "host": wants.host,
            "slots": wants.slots,
            "gpus": wants.gpus,
            "started": time.time(),
            "finished": None,
            "error": None,
            "error_class": None,
            "handle": None,
            "not_before": None,
            "wish": None,
        }

        def room(connection: Connection) -> bool:
            if limits is None:
                return True
            if not self.database.sqlite:  # schedulers of one machine take turns
                connection.execute(
                    text("select pg_advisory_xact_lock(hashtext(:place))"), {"place": f"star {wants.location}"}
                )
            held = connection.execute(
                select(jobs.c.slots, jobs.c.gpus).where(jobs.c.state == RUNNING, _at(wants.executor, wants.host))
            ).all()
            slots, gpus = limits
            busy = sum(row.slots for row in held)
            if busy and busy + wants.slots > slots:
                return False
            used = {gpu: sum((row.gpus or {}).get(gpu, 0) for row in held) for gpu in wants.gpus or {}}
            return all(used[gpu] + size <= gpus[gpu] for gpu, size in (wants.gpus or {}).items())

        if not self._change(job, RUNNING, job.attempt + 1, STARTED, reason, owner, values, room):
            return None
        return replace(job, **values)

    def held(self, executor: str, host: str | None) -> tuple[int, dict[str, int]]:
        """CPU slots and bytes per GPU that running jobs hold on a machine, or, if `host` is None, of the executor."""
        query = select(jobs.c.slots, jobs.c.gpus).where(jobs.c.state == RUNNING, _at(executor, host))
        rows = self.database.read(lambda connection: connection.execute(query).all())
        gpus: dict[str, int] = {}
        for row in rows:
            for gpu, size in (row.gpus or {}).items():
                gpus[gpu] = gpus.get(gpu, 0) + size
        return sum(row.slots for row in rows), gpus

    def adopt(self, job: Job, owner: str, reason: str) -> Job | None:
        """Take over a running job, which goes on undisturbed; None if it is no longer as `job` says."""
        assert job.state == RUNNING, f"a {job.state} job has no owner to take it from"
        if not self._change(job, RUNNING, job.attempt, ADOPTED, reason, owner, {"owner": owner}):
            return None
        return replace(job, owner=owner)

    def set_handle(self, job: Job, handle: dict[str, Any] | None) -> None:
        """Store the handle by which the executor finds the running attempt."""
        statement = update(jobs).where(jobs.c.key == job.key, jobs.c.attempt == job.attempt).values(handle=handle)
        self.database.write(lambda connection: connection.execute(statement))

    def want(self, keys: Iterable[str], wish: str) -> None:
        """Set a wish, such as `cancel`, that the owners of running jobs then carry out."""

        def work(connection: Connection) -> None:
            for part in chunks(keys, CHUNK):
                connection.execute(update(jobs).where(jobs.c.key.in_(part), jobs.c.state == RUNNING).values(wish=wish))

        self.database.write(work)

    def history(self, key: str) -> Sequence[Row[Any]]:
        """Every transition of a job, oldest first."""
        query = select(history).where(history.c.job == key).order_by(history.c.id)
        return self.database.read(lambda connection: connection.execute(query).all())

    def newest(self) -> int:
        """The id of the newest transition; 0 if there is none."""
        return self.database.read(lambda connection: connection.execute(select(func.max(history.c.id))).scalar() or 0)

    def changed_since(self, number: int) -> list[str]:
        """Keys of the jobs that have transitions with an id above `number`."""
        query = select(history.c.job).where(history.c.id > number).distinct()
        return self.database.read(lambda connection: [row.job for row in connection.execute(query)])

    def speeds(self) -> dict[str, float]:
        """FLOP/s of each stage, over the jobs that were done in one attempt."""
        total = func.sum(jobs.c.flops) / func.sum(jobs.c.finished - jobs.c.started)
        query = select(jobs.c.stage, total).where(*MEASURED).group_by(jobs.c.stage)
        return self.database.read(
            lambda connection: {stage: speed for stage, speed in connection.execute(query) if speed}
        )

    def taken(self) -> list[Taken]:
        """What the newest thousand jobs took that were done in one attempt, newest first."""
        query = (
            select(jobs.c.stage, jobs.c.host, jobs.c.flops, jobs.c.finished - jobs.c.started)
            .where(*MEASURED)
            .order_by(jobs.c.finished.desc())
            .limit(1000)
        )
        return self.database.read(lambda connection: [Taken(*row) for row in connection.execute(query)])

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of jobs of each (stage, state)."""
        query = select(jobs.c.stage, jobs.c.state, func.count()).group_by(jobs.c.stage, jobs.c.state)
        return self.database.read(lambda connection: {(row[0], row[1]): row[2] for row in connection.execute(query)})

    def that_start(self, prefix: str, limit: int = 6) -> list[str]:
        """Keys of up to `limit` jobs that start with `prefix`."""
        query = select(jobs.c.key).where(jobs.c.key.startswith(prefix, autoescape=True)).limit(limit)
        return self.database.read(lambda connection: [row.key for row in connection.execute(query)])

    def of_state(self, *states: str, limit: int | None = None) -> list[Job]:
        """Jobs in these states, oldest first."""
        query = select(*COLUMNS).where(jobs.c.state.in_(states)).order_by(jobs.c.created).limit(limit)
        return self.database.read(lambda connection: [_job(row) for row in connection.execute(query)])

    def _select(self, columns: Sequence[Any], keys: Iterable[str] | None, order: bool = False) -> list[Row[Any]]:
        query = select(*columns).order_by(jobs.c.created) if order else select(*columns)

        def work(connection: Connection) -> list[Row[Any]]:
            if keys is None:
                return list(connection.execute(query).all())
            parts = list(chunks(keys, CHUNK))
            return [row for part in parts for row in connection.execute(query.where(jobs.c.key.in_(part)))]

        return self.database.read(work)

    def _change(
        self,
        job: Job,
        after: str,
        attempt: int,
        why: str,
        reason: str,
        owner: str | None,
        values: dict[str, Any],
        allowed: Any = None,
    ) -> bool:
        token = uuid.uuid4().hex
        is_still: list[ColumnElement[bool]] = [
            jobs.c.key == job.key,
            jobs.c.state == job.state,
            jobs.c.attempt == job.attempt,
        ]
        if job.state == RUNNING:
            is_still.append(or_(jobs.c.owner == job.owner, jobs.c.owner.is_(None)))

        def work(connection: Connection) -> bool:
            if allowed is not None and not allowed(connection):
                return False
            changed = connection.execute(update(jobs).where(*is_still).values(**values)).rowcount
            if changed:
                entry = _entry(job.key, attempt, job.state, after, why, reason, owner or job.owner)
                connection.execute(insert(history).values(**entry, token=token))
            return bool(changed)

        def already(connection: Connection) -> bool | None:
            found = connection.execute(select(history.c.id).where(history.c.token == token)).first()
            return True if found else None

        return self.database.write(work, already)


def _entry(
    job: str, attempt: int, before: str | None, after: str, why: str, reason: str, owner: str | None
) -> dict[str, Any]:
    return {
        "time": time.time(),
        "job": job,
        "attempt": attempt,
        "before": before,
        "after": after,
        "why": why,
        "reason": reason,
        "owner": owner,
    }

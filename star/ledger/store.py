"""The ledger: jobs and their states, runs, experiments. Every change of a state goes through `move`.

A move names the state and attempt it starts from and happens only if they still hold, so two schedulers on one
ledger never both start a job. Nothing is ever removed from the history.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, create_engine, delete, event, func, insert, select, update

from star.errors import NotFoundError
from star.ledger.tables import experiments, history, jobs, metadata, runs, tracked

if TYPE_CHECKING:
    from star.spec.run import RunSpec  # pydantic would double the time that `status` takes

QUEUED, RUNNING, DONE, FAILED, CANCELLED, LOST = "queued", "running", "done", "failed", "cancelled", "lost"
TRANSITIONS: dict[str, set[str]] = {
    QUEUED: {RUNNING, DONE, CANCELLED},
    RUNNING: {DONE, FAILED, QUEUED, LOST, CANCELLED},
    FAILED: {QUEUED, DONE},
    LOST: {QUEUED, DONE},
    CANCELLED: {QUEUED, DONE},
    DONE: {QUEUED},
}
"""Which state may follow which. A job is done again only when its result has gone."""


@dataclass(frozen=True)
class Job:
    """One stage's place in the ledger."""

    key: str
    stage: str
    label: str
    state: str
    attempt: int
    flops: float
    handle: dict[str, Any] | None
    created: float
    started: float | None
    finished: float | None
    error_class: str | None
    error: str | None


@dataclass(frozen=True)
class RunRow:
    """A run as the ledger knows it."""

    key: str
    label: str
    seed: int
    spec: dict[str, Any]
    stages: dict[str, str]
    tracking_id: str | None
    created: float


class Ledger:
    """A ledger in one SQLite file (made when it is not there)."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        event.listen(self.engine, "connect", _configure)
        with self.engine.connect() as connection:
            made = self.engine.dialect.has_table(connection, tracked.name)  # the last of them
        if not made:
            with self._begin() as connection:  # another scheduler may be making them too
                metadata.create_all(connection)

    # jobs

    def add_job(self, key: str, stage: str, label: str, flops: float) -> None:
        """Queue a job unless the ledger knows it; `flops` is its estimated work."""
        with self._begin() as connection:
            if connection.execute(select(jobs.c.key).where(jobs.c.key == key)).first() is None:
                connection.execute(
                    insert(jobs).values(
                        key=key, stage=stage, label=label, state=QUEUED, attempt=0, flops=flops, created=time.time()
                    )
                )
                _remember(connection, key, 0, None, QUEUED, "asked for")

    def jobs(self, keys: Iterable[str] | None = None) -> dict[str, Job]:
        """All jobs, or those with the given keys."""
        query = select(jobs) if keys is None else select(jobs).where(jobs.c.key.in_(list(keys)))
        with self.engine.connect() as connection:
            return {row.key: Job(**row._mapping) for row in connection.execute(query.order_by(jobs.c.created))}

    def move(self, job: Job, after: str, reason: str, **fields: Any) -> bool:
        """Change `job`'s state; False when it is no longer what `job` says it is.

        Moving to RUNNING begins a new attempt.
        """
        assert after in TRANSITIONS[job.state], f"{job.state} -> {after} is no transition"
        attempt = job.attempt + (after == RUNNING)
        now = time.time()
        times: dict[str, Any] = (
            {"started": now, "finished": None, "error": None, "error_class": None, "handle": None}
            if after == RUNNING
            else {}
        )
        if after in (DONE, FAILED, CANCELLED, LOST):
            times["finished"] = now
        with self._begin() as connection:
            changed = connection.execute(
                update(jobs)
                .where(jobs.c.key == job.key, jobs.c.state == job.state, jobs.c.attempt == job.attempt)
                .values(state=after, attempt=attempt, **{**times, **fields})
            ).rowcount
            if changed:
                _remember(connection, job.key, attempt, job.state, after, reason)
        return bool(changed)

    def set_handle(self, key: str, attempt: int, handle: dict[str, Any] | None) -> None:
        """Remember how the executor knows the running attempt."""
        with self._begin() as connection:
            connection.execute(update(jobs).where(jobs.c.key == key, jobs.c.attempt == attempt).values(handle=handle))

    def history(self, key: str) -> Sequence[Row[Any]]:
        """Every transition of a job, oldest first."""
        with self.engine.connect() as connection:
            return connection.execute(select(history).where(history.c.job == key).order_by(history.c.id)).all()

    def speeds(self) -> dict[str, float]:
        """FLOP/s of each stage as measured on the jobs that were done in one attempt."""
        total = func.sum(jobs.c.flops) / func.sum(jobs.c.finished - jobs.c.started)
        query = select(jobs.c.stage, total).where(jobs.c.state == DONE, jobs.c.attempt == 1).group_by(jobs.c.stage)
        with self.engine.connect() as connection:
            return {stage: speed for stage, speed in connection.execute(query) if speed}

    # runs and experiments

    def add_run(self, key: str, label: str, spec: RunSpec, stages: Mapping[str, str]) -> None:
        """Enter a run unless the ledger knows it."""
        with self._begin() as connection:
            if connection.execute(select(runs.c.key).where(runs.c.key == key)).first() is None:
                values = {
                    "key": key,
                    "label": label,
                    "seed": spec.seed,
                    "spec": spec.model_dump(mode="json"),
                    "stages": dict(stages),
                    "created": time.time(),
                }
                connection.execute(insert(runs).values(values))

    def runs(self, keys: Iterable[str] | None = None) -> dict[str, RunRow]:
        """All runs, or those with the given keys."""
        query = select(runs) if keys is None else select(runs).where(runs.c.key.in_(list(keys)))
        with self.engine.connect() as connection:
            return {row.key: RunRow(**row._mapping) for row in connection.execute(query.order_by(runs.c.created))}

    def set_experiment(
        self, name: str, profile: str, targets: Sequence[str], rows: Sequence[tuple[str, int, str]]
    ) -> None:
        """Enter an experiment's rows (label, seed, run key), in place of what it was before."""
        with self._begin() as connection:
            connection.execute(delete(experiments).where(experiments.c.name == name, experiments.c.profile == profile))
            connection.execute(
                insert(experiments),
                [
                    {
                        "name": name,
                        "profile": profile,
                        "row": label,
                        "seed": seed,
                        "run": run,
                        "targets": list(targets),
                        "place": place,
                    }
                    for place, (label, seed, run) in enumerate(rows)
                ],
            )

    def experiments(self) -> Sequence[Row[Any]]:
        """All rows of all experiments, in order."""
        with self.engine.connect() as connection:
            return connection.execute(
                select(experiments).order_by(experiments.c.name, experiments.c.profile, experiments.c.place)
            ).all()

    # what the tracker holds

    def set_tracking_id(self, run: str, before: str | None, tracking_id: str) -> bool:
        """Bind a run to a new run of the tracker, which holds nothing yet; False when it is no longer bound to `before`."""
        with self._begin() as connection:
            same = runs.c.tracking_id.is_(None) if before is None else runs.c.tracking_id == before
            changed = connection.execute(
                update(runs).where(runs.c.key == run, same).values(tracking_id=tracking_id)
            ).rowcount
            if changed:
                connection.execute(delete(tracked).where(tracked.c.run == run))
        return bool(changed)

    def tracked(self, run: str) -> dict[str, tuple[int, bool]]:
        """For each job of a run: (offset in its metrics, whether its result is there too)."""
        with self.engine.connect() as connection:
            return {
                row.job: (row.offset, row.complete)
                for row in connection.execute(select(tracked).where(tracked.c.run == run))
            }

    def set_tracked(self, run: str, job: str, offset: int, complete: bool) -> None:
        """Remember how much of a job the run's tracker holds."""
        with self._begin() as connection:
            connection.execute(delete(tracked).where(tracked.c.run == run, tracked.c.job == job))
            connection.execute(insert(tracked).values(run=run, job=job, offset=offset, complete=complete))

    def resolve(self, prefix: str) -> tuple[str, str]:
        """("run" or "job", key) of the one whose key starts with `prefix`; `stage-key` works too.

        Raises:
            NotFoundError: none does, or several do.
        """
        start = prefix.rsplit("-", 1)[-1]
        found = [("run", key) for key in self.runs() if key.startswith(start)] + [
            ("job", key) for key in self.jobs() if key.startswith(start)
        ]
        if len(found) != 1 or not start:
            some = ", ".join(f"{kind} {key}" for kind, key in found[:5])
            raise NotFoundError(
                f"{prefix!r} is the start of {len(found)} keys{': ' + some if some else ''}; "
                "give one of those that `star-exp status` prints."
            )
        return found[0]

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """A transaction that may write. IMMEDIATE: taking the lock first cannot deadlock with another writer."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise


def _configure(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver would begin transactions by itself, and too late
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA synchronous=NORMAL")


def _remember(connection: Connection, job: str, attempt: int, before: str | None, after: str, reason: str) -> None:
    connection.execute(
        insert(history).values(time=time.time(), job=job, attempt=attempt, before=before, after=after, reason=reason)
    )

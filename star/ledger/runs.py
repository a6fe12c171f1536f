"""Runs, experiments, and how much of each run the tracker holds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, text, update

from star.chunks import chunks
from star.errors import NotFoundError
from star.ledger.database import Database
from star.ledger.jobs import CHUNK
from star.ledger.states import RunRow
from star.ledger.tables import experiments, runs, tracked
from star.spec.renames import as_now


class Runs:
    """The ledger's runs and experiments."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, new: Sequence[RunRow]) -> None:
        """Add each run that the ledger does not know yet, and to known ones the stages that came since, such as a newer
        version's."""

        def work(connection: Connection) -> None:
            for part in chunks(new, CHUNK // 10):
                keys = [run.key for run in part]
                known = connection.execute(select(runs.c.key, runs.c.stages).where(runs.c.key.in_(keys)))
                before = {row.key: row.stages for row in known}
                rows = [{**run.__dict__, "created": time.time()} for run in part]
                connection.execute(self.database.insert(runs).values(rows).on_conflict_do_nothing())
                for row in rows:
                    stages = {**before.get(row["key"], row["stages"]), **row["stages"]}
                    if row["key"] in before and stages != before[row["key"]]:
                        grown = {"stages": stages, "spec": row["spec"], "created": row["created"]}
                        connection.execute(update(runs).where(runs.c.key == row["key"]).values(grown))

        if new:
            self.database.write(work)

    def of(self, keys: Iterable[str] | None = None) -> dict[str, RunRow]:
        """Key -> run: all runs, or those with the given keys."""
        query = select(runs).order_by(runs.c.created)

        def work(connection: Connection) -> dict[str, RunRow]:
            queries = [query] if keys is None else [query.where(runs.c.key.in_(part)) for part in chunks(keys, CHUNK)]
            found = (row._mapping for one in queries for row in connection.execute(one))
            return {row["key"]: RunRow(**{**row, "spec": as_now(row["spec"])}) for row in found}

        return self.database.read(work)

    def stages(self, since: float | None = None) -> dict[str, dict[str, str]]:
        """Run key -> stage -> job key, for all runs; their specs, which are large, are not read.

        Args:
            since: a time (seconds since 1970); only runs that were added then or later.
        """
        query = select(runs.c.key, runs.c.stages)
        if since is not None:
            query = query.where(runs.c.created >= since)
        return self.database.read(lambda connection: {row.key: row.stages for row in connection.execute(query)})

    def size(self) -> tuple[int, int]:
        """Number of experiments' rows and number of runs: a cheap sign that something was added."""
        rows = select(func.count()).select_from(experiments).scalar_subquery()
        query = select(rows, func.count()).select_from(runs)

        def work(connection: Connection) -> tuple[int, int]:
            listed, known = connection.execute(query).one()
            return int(listed), int(known)

        return self.database.read(work)

    def that_start(self, prefix: str, limit: int = 6) -> list[str]:
        """Keys of up to `limit` runs that start with `prefix`."""
        query = select(runs.c.key).where(runs.c.key.startswith(prefix, autoescape=True)).limit(limit)
        return self.database.read(lambda connection: [row.key for row in connection.execute(query)])

    def set_experiment(
        self, name: str, profile: str, targets: Sequence[str], rows: Sequence[tuple[str, int, str]]
    ) -> None:
        """Store an experiment's rows (label, seed, run key), in place of its earlier ones."""
        values = [
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
        ]

        def work(connection: Connection) -> None:
            if not self.database.sqlite:  # writers of the same experiment take turns
                connection.execute(
                    text("select pg_advisory_xact_lock(hashtext(:name))"), {"name": f"star {name}@{profile}"}
                )
            connection.execute(delete(experiments).where(experiments.c.name == name, experiments.c.profile == profile))
            connection.execute(insert(experiments), values)

        self.database.write(work)

    def extend_experiment(
        self, name: str, profile: str, targets: Sequence[str], rows: Sequence[tuple[str, int, str]]
    ) -> None:
        """Add rows (label, seed, run key) to an experiment, or replace those of the same label and seed."""

        def work(connection: Connection) -> None:
            mine = [experiments.c.name == name, experiments.c.profile == profile]
            place = connection.execute(select(func.max(experiments.c.place)).where(*mine)).scalar()
            for i, (label, seed, run) in enumerate(rows, 0 if place is None else place + 1):
                values = {"run": run, "targets": list(targets)}
                row = {"name": name, "profile": profile, "row": label, "seed": seed, "place": i, **values}
                insertion = self.database.insert(experiments).values(row)
                keys = ["name", "profile", "row", "seed"]
                connection.execute(insertion.on_conflict_do_update(index_elements=keys, set_=values))

        self.database.write(work)

    def forget_experiment(self, name: str, profile: str) -> None:
        """Delete an experiment's rows; its runs and jobs stay."""
        mine = [experiments.c.name == name, experiments.c.profile == profile]
        self.database.write(lambda connection: connection.execute(delete(experiments).where(*mine)))

    def experiments(self, name: str | None = None, profile: str | None = None) -> Sequence[Row[Any]]:
        """Rows of all experiments, or of those with the given name and profile, in order."""
        query = select(experiments).order_by(experiments.c.name, experiments.c.profile, experiments.c.place)
        if name is not None:
            query = query.where(experiments.c.name == name)
        if profile is not None:
            query = query.where(experiments.c.profile == profile)
        return self.database.read(lambda connection: connection.execute(query).all())

    def named(self, text: str) -> Sequence[Row[Any]]:
        """Rows of the experiment NAME at all profiles, or of NAME@PROFILE.

        Raises:
            NotFoundError: there is none.
        """
        name, _, profile = text.partition("@")
        found = self.experiments(name, profile or None)
        if not found:
            known = sorted({f"{row.name}@{row.profile}" if profile else row.name for row in self.experiments()})
            raise NotFoundError(
                f"{text}: there is no experiment of that name here; there are: {', '.join(known) or 'none'}."
            )
        return found

    # what the tracker holds

    def tracking_ids(self, keys: Iterable[str]) -> dict[str, str | None]:
        """Run key -> id of the tracker's run that it is bound to, or None."""
        query = select(runs.c.key, runs.c.tracking_id)

        def work(connection: Connection) -> dict[str, str | None]:
            queries = [query.where(runs.c.key.in_(part)) for part in chunks(keys, CHUNK)]
            return {row.key: row.tracking_id for one in queries for row in connection.execute(one)}

        return self.database.read(work)

    def set_tracking_id(self, run: str, before: str | None, tracking_id: str) -> bool:
        """Bind a run to a new, empty run of the tracker; False if it is no longer bound to `before`."""

        def work(connection: Connection) -> bool:
            same = runs.c.tracking_id.is_(None) if before is None else runs.c.tracking_id == before
            changed = connection.execute(
                update(runs).where(runs.c.key == run, same).values(tracking_id=tracking_id)
            ).rowcount
            if changed:
                connection.execute(delete(tracked).where(tracked.c.run == run))
            return bool(changed)

        def already(connection: Connection) -> bool | None:
            bound = connection.execute(select(runs.c.tracking_id).where(runs.c.key == run)).scalar()
            return True if bound == tracking_id else None

        return self.database.write(work, already)

    def tracked(self, keys: Iterable[str]) -> dict[str, dict[str, tuple[int, bool]]]:
        """What the tracker holds: run -> job -> (offset in the job's metrics, whether its result is there too)."""

        def work(connection: Connection) -> dict[str, dict[str, tuple[int, bool]]]:
            found: dict[str, dict[str, tuple[int, bool]]] = {}
            for part in chunks(keys, CHUNK):
                for row in connection.execute(select(tracked).where(tracked.c.run.in_(part))):
                    found.setdefault(row.run, {})[row.job] = (row.offset, row.complete)
            return found

        return self.database.read(work)

    def set_tracked(self, run: str, job: str, offset: int, complete: bool) -> None:
        """Store how much of a job the tracker holds for a run: offset in its metrics, and whether that is all."""

        def work(connection: Connection) -> None:
            connection.execute(delete(tracked).where(tracked.c.run == run, tracked.c.job == job))
            connection.execute(insert(tracked).values(run=run, job=job, offset=offset, complete=complete))

        self.database.write(work)

    def forget_tracked(self, jobs: Iterable[str] | None = None) -> None:
        """Forget what the tracker holds of these jobs, or of all, so that it is logged again."""

        def work(connection: Connection) -> None:
            if jobs is None:
                connection.execute(delete(tracked))
                return
            for part in chunks(jobs, CHUNK):
                connection.execute(delete(tracked).where(tracked.c.job.in_(part)))

        self.database.write(work)

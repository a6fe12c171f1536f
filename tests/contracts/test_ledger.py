"""What a ledger promises, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

import star.ledger.migrate
from star.errors import LedgerError, NotFoundError
from star.ledger.database import HEAD, Database
from star.ledger.migrate import check, migrate
from star.ledger.states import (
    AGAIN,
    CANCELLED,
    DONE,
    FAILED,
    FINISHED,
    LOST,
    QUEUED,
    RUNNING,
    TRANSITIONS,
    Allocation,
    Job,
    NewJob,
    RunRow,
)
from star.ledger.store import Ledger, open_ledger, read_ledger
from star.ledger.tables import metadata
from star.rundir import Home
from star.spec.keys import run_key, stage_keys
from tests.helpers import tiny

KEY = "0123456789abcdef"
HERE = Allocation("here", 1)


def open_at(url: str) -> Ledger:
    opened = Database(url)
    migrate(opened)
    return Ledger(opened)


@pytest.fixture
def ledger(database: str) -> Ledger:
    made = open_at(database)
    made.jobs.add([NewJob(KEY, "train", "a run", 1e9, {"version": 1})])
    return made


def job(ledger: Ledger, key: str = KEY) -> Job:
    return ledger.jobs.of([key])[key]


def claimed(ledger: Ledger, owner: str = "me", key: str = KEY) -> Job:
    found = ledger.jobs.claim(job(ledger, key), owner, "started", HERE)
    assert found is not None
    return found


def at_once(count: int, work: Callable[[], None]) -> None:
    """Do `work` in several threads at the same time."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(count)

    def one() -> None:
        try:
            barrier.wait()
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_job_is_queued_once(ledger: Ledger) -> None:
    ledger.jobs.add([NewJob(KEY, "train", "another run", 1e9), NewJob("f" * 16, "probe", "p", 0)])
    assert [(found.key, found.state, found.label) for found in ledger.jobs.of().values()] == [
        (KEY, QUEUED, "a run"),
        ("f" * 16, QUEUED, "p"),
    ]
    assert [(row.after, row.why) for row in ledger.jobs.history(KEY)] == [(QUEUED, "asked")]
    assert ledger.jobs.contents_of([KEY, "f" * 16]) == {KEY: {"version": 1}}


def test_a_life(ledger: Ledger) -> None:
    first = claimed(ledger)
    assert first == job(ledger)
    ledger.jobs.set_handle(first, {"pid": 7})
    assert ledger.jobs.move(job(ledger), QUEUED, "died", "its worker died", not_before=9.0)
    waiting = job(ledger)
    assert (waiting.not_before, waiting.slots, waiting.host) == (9.0, 0, None)
    second = claimed(ledger)
    assert (second.attempt, second.handle, second.not_before) == (2, None, None)
    ledger.jobs.set_handle(first, {"pid": 8})  # of an attempt that is over
    assert job(ledger).handle is None
    assert ledger.jobs.move(second, FAILED, "user_error", "DataError", error_class="DataError", error="no images")
    failed = job(ledger)
    assert (failed.error, failed.why) == ("no images", "user_error") and failed.finished is not None
    assert ledger.jobs.move(failed, QUEUED, AGAIN, "asked for again") and job(ledger).error is None
    assert [(row.attempt, row.before, row.after, row.owner) for row in ledger.jobs.history(KEY)] == [
        (0, None, QUEUED, None),
        (1, QUEUED, RUNNING, "me"),
        (1, RUNNING, QUEUED, "me"),
        (2, QUEUED, RUNNING, "me"),
        (2, RUNNING, FAILED, "me"),
        (2, FAILED, QUEUED, "me"),
    ]


def test_a_move_from_a_state_that_has_passed_does_nothing(ledger: Ledger) -> None:
    stale = job(ledger)
    claimed(ledger)
    assert ledger.jobs.claim(stale, "another", "started", HERE) is None
    assert not ledger.jobs.move(stale, CANCELLED, "cancelled", "too late")
    assert job(ledger).state == RUNNING and len(ledger.jobs.history(KEY)) == 2


def test_a_scheduler_taken_for_dead_cannot_undo_its_successors_work(ledger: Ledger) -> None:
    mine = claimed(ledger, "slow")
    adopted = ledger.jobs.adopt(mine, "successor", "silent")
    assert adopted is not None and adopted.attempt == 1 and job(ledger).owner == "successor"
    assert ledger.jobs.adopt(mine, "third", "silent") is None
    assert not ledger.jobs.move(mine, DONE, FINISHED, "late")
    assert ledger.jobs.move(adopted, QUEUED, "died", "lost")
    again = claimed(ledger, "successor")
    assert not ledger.jobs.move(adopted, DONE, FINISHED, "of an earlier attempt")
    assert job(ledger) == again and again.attempt == 2


@pytest.mark.parametrize("before", list(TRANSITIONS))
def test_only_legal_transitions(ledger: Ledger, before: str) -> None:
    for after in {QUEUED, DONE, FAILED, CANCELLED, LOST} - TRANSITIONS[before]:
        with pytest.raises(AssertionError, match="no transition"):
            ledger.jobs.move(replace(job(ledger), state=before), after, "x", "forbidden")


def test_the_history_cannot_be_changed(ledger: Ledger) -> None:
    for statement in ("update history set reason = 'nothing happened'", "delete from history"):
        with pytest.raises(DBAPIError, match="append-only"), ledger.database.transaction() as connection:
            connection.execute(text(statement))
    assert [row.reason for row in ledger.jobs.history(KEY)] == ["asked for"]


def test_of_many_claims_at_once_one_wins(database: str, ledger: Ledger) -> None:
    keys = [f"{i:016x}" for i in range(20)]
    ledger.jobs.add([NewJob(key, "train", "", 0) for key in keys])
    wins: list[str] = []

    def claim() -> None:
        mine = Ledger(Database(database))
        for found in mine.jobs.of(keys).values():
            if found.state == QUEUED and mine.jobs.claim(found, "me", "started", HERE):
                wins.append(found.key)

    at_once(4, claim)
    assert sorted(wins) == keys
    assert all(len(ledger.jobs.history(key)) == 2 for key in keys)


def test_a_machine_is_never_overfilled(database: str, ledger: Ledger) -> None:
    """Three slots and a GPU of 10 bytes, wanted by many at once from several schedulers."""
    keys = [f"{i:016x}" for i in range(12)]
    ledger.jobs.add([NewJob(key, "train", "", 0) for key in keys])

    def claim() -> None:
        mine = Ledger(Database(database))
        for found in mine.jobs.of(keys).values():
            mine.jobs.claim(found, "me", "started", Allocation("gpu-host", 1, {"GPU-1": 4}), (3, {"GPU-1": 10}))

    at_once(4, claim)
    assert ledger.jobs.held("local", "gpu-host") == (2, {"GPU-1": 8})  # a third would take 12 of 10
    running = ledger.jobs.of_state(RUNNING)
    ledger.jobs.move(running[0], DONE, FINISHED, "finished")
    assert ledger.jobs.held("local", "gpu-host") == (1, {"GPU-1": 4})
    elsewhere = ledger.jobs.claim(ledger.jobs.of_state(QUEUED)[0], "me", "x", Allocation("other", 9), (3, {}))
    assert elsewhere is not None  # wider than its machine: alone there, not never


def test_a_ledger_that_many_open_first_at_once(database: str) -> None:
    at_once(6, lambda: open_at(database).jobs.add([NewJob(KEY, "train", "", 0)]))
    assert len(open_at(database).jobs.history(KEY)) == 1


def test_migrations_make_exactly_the_tables(database: str) -> None:
    made = open_at(database)
    with made.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    script = ScriptDirectory(str(Path(star.ledger.migrate.__file__).parent / "migrations"))
    assert script.get_heads() == [HEAD]


def test_a_ledger_from_before_migrations_is_brought_up(database: str) -> None:
    """As the first version of star left it: the tables of 0001 without Alembic's mark."""
    old = Database(database)
    open_at(database)
    with old.transaction() as connection:
        connection.execute(text("drop table schedulers"))
        connection.execute(text("drop table facts"))
        for name in ("update", "delete") if old.sqlite else ():
            connection.execute(text(f"drop trigger history_keeps_{name}"))
        if not old.sqlite:
            connection.execute(text("drop function history_is_kept() cascade"))
        connection.execute(text("drop index uq_history_token"))
        new = ["why", "owner", "executor", "host", "slots", "gpus", "not_before", "wish", "content"]
        for table, columns in (("jobs", new), ("history", ["why", "owner", "token"])):
            for column in columns:
                connection.execute(text(f"alter table {table} drop column {column}"))
        connection.execute(text("drop table alembic_version"))
        connection.execute(
            text(
                "insert into jobs (key, stage, label, state, attempt, flops, created) values (:key, 'train', 'old', 'done', 1, 0, 0)"
            ),
            {"key": KEY},
        )
    with pytest.raises(LedgerError, match="older star"):
        check(old)
    migrated = open_at(database)
    assert job(migrated).label == "old" and job(migrated).slots == 0
    assert migrated.jobs.move(job(migrated), QUEUED, AGAIN, "asked for again")


def test_where_jobs_ran_is_kept_when_it_is_said_in_two_columns(database: str) -> None:
    """As version 0002 said it: an executor that alone knows its machines was a host with `@` before its name."""
    old = Database(database)
    keys = {"@slurm": "1" * 16, "gpu-host": "2" * 16, None: "3" * 16}
    open_at(database).jobs.add([NewJob(key, "train", "", 0) for key in keys.values()])
    with old.transaction() as connection:
        connection.execute(text("alter table jobs drop column executor"))
        connection.execute(text("update alembic_version set version_num = '0002'"))
        for host, key in keys.items():
            connection.execute(text("update jobs set host = :host where key = :key"), {"host": host, "key": key})
    with pytest.raises(LedgerError, match="older star"):
        check(old)
    found = open_at(database).jobs.of(keys.values())
    where = {host: (found[key].executor, found[key].host, found[key].location) for host, key in keys.items()}
    assert where == {
        "@slurm": ("slurm", None, "slurm"),
        "gpu-host": ("local", "gpu-host", "gpu-host"),
        None: (None, None, None),
    }
    with Database(database).transaction() as connection:  # a scheduler of that version, which is still at work
        connection.execute(
            text("update jobs set host = '@ray', executor = null where key = :key"), {"key": keys["gpu-host"]}
        )
    late = open_at(database).jobs.of([keys["gpu-host"]])[keys["gpu-host"]]
    assert (late.executor, late.host) == ("ray", None)


def test_an_executor_that_alone_knows_its_machines_has_a_room_of_its_own(ledger: Ledger) -> None:
    keys = [f"{i:016x}" for i in range(4)]
    ledger.jobs.add([NewJob(key, "train", "", 0) for key in keys])
    claims = [Allocation("here", 2), *(Allocation(None, 2, executor="farm") for _ in range(3))]
    got = [
        ledger.jobs.claim(ledger.jobs.of([key])[key], "me", "started", claim, (4, {}))
        for key, claim in zip(keys, claims, strict=True)
    ]
    assert [one is not None for one in got] == [True, True, True, False]
    assert ledger.jobs.held("farm", None) == (4, {})
    assert ledger.jobs.held("local", "here") == (2, {})
    first = ledger.jobs.of([keys[1]])[keys[1]]
    ledger.jobs.move(first, QUEUED, AGAIN, "asked for again")
    again = ledger.jobs.of([keys[1]])[keys[1]]
    assert again.location is None, "it runs nowhere now"
    named = ledger.jobs.claim(again, "me", "started", Allocation("box", 1, executor="farm"), (4, {}))
    assert named is not None and named.location == "box"
    assert ledger.jobs.held("farm", None) == (3, {}), "an executor may name its machines"
    assert Allocation("@farm", 1).host is None


def test_a_newer_ledger_is_refused(database: str, ledger: Ledger) -> None:
    with ledger.database.transaction() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    for use in (check, migrate):
        with pytest.raises(LedgerError, match="newer star"):
            use(Database(database))


def test_a_commit_whose_answer_was_lost_is_not_done_twice(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the database has committed: the claim is ours all the same."""
    from contextlib import contextmanager

    from sqlalchemy.exc import OperationalError

    whole, lost = ledger.database.transaction, iter([True])

    @contextmanager
    def breaking():  # type: ignore[no-untyped-def]
        with whole() as connection:
            yield connection
        if next(lost, False):
            raise OperationalError("commit", {}, Exception("server closed the connection unexpectedly"))

    monkeypatch.setattr(ledger.database, "transaction", breaking)
    assert claimed(ledger).attempt == 1
    assert [row.after for row in ledger.jobs.history(KEY)] == [QUEUED, RUNNING]


def test_one_ledger_speaks_of_one_home(database: str, tmp_path: Path) -> None:
    assert read_ledger(Home(tmp_path / "a")) is None
    open_ledger(Home(tmp_path / "a")).jobs.add([NewJob(KEY, "train", "", 0)])
    found = read_ledger(Home(tmp_path / "a"))
    assert found is not None and job(found).state == QUEUED
    (tmp_path / "a").rename(tmp_path / "moved")
    open_ledger(Home(tmp_path / "moved"))
    with pytest.raises(LedgerError, match="belongs to the home"):
        open_ledger(Home(tmp_path / "b"))


def test_schedulers_come_beat_and_go(ledger: Ledger) -> None:
    me, other = ledger.schedulers.enter("local"), ledger.schedulers.enter("slurm")
    ledger.schedulers.beat(me)
    seen = ledger.schedulers.all()
    assert (seen[me.id].beats, seen[other.id].beats, seen[other.id].executor) == (1, 0, "slurm")
    ledger.schedulers.leave(me)
    assert list(ledger.schedulers.all()) == [other.id]


def test_a_run_takes_in_stages_that_a_newer_version_gives_it(ledger: Ledger) -> None:
    """Its key is the same; what reads the ledger, such as `gc`, must know the new job as its."""
    row = RunRow("k", "r=0.25 · seed 0", 0, tiny().model_dump(mode="json"), {"train": "a"}, None, 0.0)
    for stages in ({"train": "a"}, {"train": "a", "floor": "b"}, {"train": "a"}):  # an older version takes nothing away
        ledger.runs.add([replace(row, stages=stages)])
    assert ledger.runs.stages()["k"] == {"train": "a", "floor": "b"}


def test_runs_experiments_and_prefixes(ledger: Ledger) -> None:
    spec = tiny()
    stages = stage_keys(spec, {"data": "x"})
    key = run_key(spec, stages)
    row = RunRow(key, "r=0.25 · seed 0", 0, spec.model_dump(mode="json"), stages, None, 0.0)
    for _ in range(2):
        ledger.runs.add([row])
        ledger.runs.set_experiment("tiny", "tiny", ["score"], [("r=0.25", 0, key)])
    ledger.runs.set_experiment("other", "tiny", ["score"], [("r=0.25", 0, key)])
    assert ledger.runs.of()[key].stages == stages and len(ledger.runs.experiments("tiny", "tiny")) == 1
    assert ledger.runs.stages() == {key: stages}
    assert type(spec).model_validate(ledger.runs.of()[key].spec) == spec
    assert ledger.resolve(key[:6]) == ("run", key)
    assert ledger.resolve(f"train-{KEY}") == ("job", KEY)
    for unknown in ("ffffff", "", "%", "_"):
        with pytest.raises(NotFoundError, match="begins "):
            ledger.resolve(unknown)


def test_how_much_the_tracker_holds(ledger: Ledger) -> None:
    ledger.runs.add([RunRow("a", "a", 0, {}, {"train": KEY}, None, 0.0)])
    assert ledger.runs.set_tracking_id("a", None, "mlflow-1")
    assert not ledger.runs.set_tracking_id("a", None, "mlflow-of-another-scheduler")
    ledger.runs.set_tracked("a", KEY, 100, False)
    ledger.runs.set_tracked("a", KEY, 2**40, True)
    assert ledger.runs.tracked(["a", "b"]) == {"a": {KEY: (2**40, True)}}
    assert ledger.runs.set_tracking_id("a", "mlflow-1", "mlflow-2")
    assert ledger.runs.tracked(["a"]) == {}
    ledger.runs.set_tracked("a", KEY, 1, True)
    ledger.runs.forget_tracked([KEY])
    assert ledger.runs.tracked(["a"]) == {}


def test_wishes_reach_running_jobs_only(ledger: Ledger) -> None:
    ledger.jobs.add([NewJob("f" * 16, "probe", "p", 0)])
    claimed(ledger)
    ledger.jobs.want([KEY, "f" * 16], "cancel")
    assert {key: place.wish for key, place in ledger.jobs.places([KEY, "f" * 16]).items()} == {
        KEY: "cancel",
        "f" * 16: None,
    }


def test_more_keys_than_a_query_may_have(ledger: Ledger) -> None:
    ledger.jobs.add([NewJob(f"{i:016x}", "train", "", 0) for i in range(12_000)])
    assert len(ledger.jobs.places([f"{i:016x}" for i in range(70_000)])) == 12_000


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u@h/db", "begins with sqlite or postgresql"),
        ("nonsense", "is no database address"),
        ("postgresql://star:secret@127.0.0.1:1/db", "cannot be reached"),
    ],
)
def test_an_address_that_leads_nowhere(url: str, says: str) -> None:
    with pytest.raises(LedgerError, match=says) as caught:
        Database(url, patience=0).version()
    assert "secret" not in str(caught.value)

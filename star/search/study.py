"""A study: Optuna's trials of one search, in a database that its dashboard reads while the search goes on.

One process asks and tells. Everything that a trial is waiting for is in the ledger and in the jobs' folders, so what is
kept here is what Optuna needs to choose, and no more.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from star.errors import LedgerError, NotFoundError, SpecError
from star.ledger.database import Database, address
from star.rundir import Home
from star.scheduler.plan import make_plan
from star.search.choosing import distribution, make_pruner, make_sampler
from star.spec.builtin import given_fields
from star.spec.diff import ABSENT, differences
from star.spec.points import Point, Search, start_points
from star.sqlite_file import copy_to_read, url_of

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
logging.getLogger().addHandler(logging.NullHandler())  # or its migrations would take over the root logger
if (
    logging.lastResort is not None
):  # with a handler at the root, Python prints the warnings of nobody; ours are meant to be read
    logging.getLogger("star").addHandler(logging.lastResort)
log = logging.getLogger(__name__)
SCHEMA = "star_studies"
"""Of a PostgreSQL database that holds the ledger too: Optuna's tables have a schema of their own."""
SAME_AS, IMPOSSIBLE, WARM, PROMOTED, WHY, RUN = "same_as", "impossible", "warm_start", "promoted", "why", "run"
HOURS, EARLY_HOURS = "hours", "early_hours"
"""What is noted at a trial: the earlier one at the same point; values that do not fit together; results of earlier experiments;
the trial that it goes on from; why it failed; the key of its run. What it cost, and what of that was measured before its end."""


def studies_url(home: Home) -> str:
    """Where the studies of a home are: beside its ledger; also what optuna-dashboard takes."""
    url = address(home.ledger)
    if url.startswith("sqlite"):
        return url_of(home.studies)
    made = Database(url).url
    given = made.query.get("options", "")
    options = f"{given} -csearch_path={SCHEMA}".strip()
    return made.update_query_dict({"options": options}).render_as_string(hide_password=False)


def open_storage(home: Home, to_read: bool = False) -> optuna.storages.BaseStorage:
    """The studies' database, made when it is not there.

    Args:
        to_read: of a home that may not be written, or whose disk is full, a copy is read.

    Raises:
        LedgerError: it cannot be used.
    """
    url = studies_url(home)
    patient: dict[str, Any] = {"pool_pre_ping": True}
    try:
        if url.startswith("sqlite"):
            if to_read and home.studies.is_file() and not _may_write(home.studies):
                url = url_of(copy_to_read(home.studies))
            else:
                home.path.mkdir(parents=True, exist_ok=True)
            patient = {"connect_args": {"timeout": 60}}
        else:
            statement = f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"
            Database(address(home.ledger)).write(lambda connection: connection.exec_driver_sql(statement))
        return optuna.storages.get_storage(optuna.storages.RDBStorage(url, engine_kwargs=patient))
    except (SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
        raise LedgerError(f"the studies' database cannot be used: {str(error).splitlines()[0]}") from None


def _may_write(file: Path) -> bool:
    """Whether SQLite can make the journal that it wants even to look."""
    return (
        os.access(file, os.W_OK) and os.access(file.parent, os.W_OK) and shutil.disk_usage(file.parent).free > 1 << 20
    )


class Study:
    """One search's trials.

    Args:
        begin: make the study when there is none, with the points that are named as its first trials.

    Raises:
        SpecError: the study was begun with another base, space or objective; or what it needs is not installed.
        NotFoundError: it was not begun.
    """

    def __init__(self, search: Search, home: Home, begin: bool = True) -> None:
        self.search = search
        self.distributions = {name: distribution(search, name) for name in search.spec.space}
        name, pruner = study_name(search), make_pruner(search)
        if not begin:
            self.optuna = _existing(search, home, pruner)
            self._refuse_others(identity(search))
            return
        make_sampler(search, 0)  # whether it is installed
        directions = [objective.direction for objective in search.spec.objectives]
        self.optuna = optuna.create_study(
            storage=open_storage(home), study_name=name, directions=directions, pruner=pruner, load_if_exists=True
        )
        default = make_plan(
            search.experiment([("default", search.default)], search.spec.seeds, search.targets), home, None
        )
        self._refuse_others({**identity(search), "default run": default.runs[0].key})
        for point in start_points(search):
            if not self._has(point):
                self.optuna.enqueue_trial(point)

    def trials(self) -> list[FrozenTrial]:
        """All of them, in the order of their numbers."""
        return self.optuna.get_trials(deepcopy=False)

    def complete(self) -> list[FrozenTrial]:
        """Those that reached their end, each run once."""
        return [t for t in self.trials() if t.state == TrialState.COMPLETE and SAME_AS not in t.user_attrs]

    def counted(self) -> int:
        """Trials that count towards the total: not those that cost nothing."""
        return sum(counts(trial) for trial in self.trials())

    def ask(self) -> tuple[optuna.Trial, Point]:
        """A new trial, and its point: the next that was named, or the sampler's choice."""
        number = sum(trial.state != TrialState.WAITING for trial in self.trials())
        self.optuna.sampler = make_sampler(self.search, number)
        trial = self.optuna.ask()
        return trial, self.suggested(trial)

    def again(self, frozen: FrozenTrial) -> tuple[optuna.Trial, Point]:
        """A trial that was running when the last search ended; a kill may have left it with half a point."""
        self.optuna.sampler = make_sampler(self.search, frozen.number)
        trial = optuna.Trial(self.optuna, frozen._trial_id)
        return trial, self.suggested(trial)

    def suggested(self, trial: optuna.Trial) -> Point:
        """The point of a trial, as far as it is not chosen yet by the sampler."""
        point: Point = {}
        for name in self.search.spec.space:
            if self.search.active(point, name):
                point[name] = trial._suggest(name, self.distributions[name])
        return point

    def tell(self, number: int, values: list[float] | None, state: TrialState, **notes: Any) -> None:
        """The end of a trial."""
        trial_id = self.trials()[number]._trial_id
        for name, value in notes.items():
            self.optuna._storage.set_trial_user_attr(trial_id, name, value)
        self.optuna.tell(number, values, state)

    def add(self, point: Point, values: list[float], **notes: Any) -> None:
        """A trial whose values are known without asking."""
        distributions = {name: self.distributions[name] for name in point}
        self.optuna.add_trial(
            optuna.trial.create_trial(params=point, distributions=distributions, values=values, user_attrs=notes)
        )

    def _has(self, point: Point) -> bool:
        return any(trial.params == point or trial.system_attrs.get("fixed_params") == point for trial in self.trials())

    def _refuse_others(self, now: dict[str, Any]) -> None:
        before = self.optuna.user_attrs.get("search")
        if before is None:
            self.optuna.set_user_attr("search", now)
            return
        # a field that is newer than the study had its default; what else it means is in the default's run
        found = [str(one) for one in differences(before, now) if ABSENT not in (one.old, one.new)]
        if found:
            more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
            raise SpecError(
                f"{self.search.file}: the study {study_name(self.search)} was begun with other values: {'; '.join(found[:5])}{more}. "
                "Its trials cannot be compared with new ones: give --name NAME to begin another, or undo the change."
            )


def _existing(search: Search, home: Home, pruner: BasePruner) -> optuna.Study:
    name, url = study_name(search), studies_url(home)
    missing = NotFoundError(
        f"{search.file}: the study {name} has no trials yet; `star-exp search {search.file}` begins it."
    )
    if url.startswith("sqlite") and not home.studies.exists():
        raise missing
    try:
        return optuna.load_study(storage=open_storage(home, to_read=True), study_name=name, pruner=pruner)
    except KeyError:
        raise missing from None


def study_name(search: Search) -> str:
    """A search at a profile."""
    return f"{search.name}@{search.profile}"


def identity(search: Search) -> dict[str, Any]:
    """What all trials of a study must have in common."""
    base = search.default.model_dump(mode="json", exclude={"resources"})
    for path in given_fields():  # what these files contain is part of a run's key; where they lie is not
        section, field = path.split(".")
        base.get(section, {}).pop(field, None)
    base.pop("plugins", None)  # what they contain is in the key of the default run; where they lie matters to nobody
    for script in base.get("stages", {}).values():
        del script["folder"], script["reads"]
    spec = search.spec.model_dump(mode="json", include={"space", "seeds", "pruner"})
    objectives = [[objective.metric, objective.direction] for objective in search.spec.objectives]
    return {"base": base, "objectives": objectives, **spec}


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for, and not one that cost nothing."""
    return trial.state != TrialState.WAITING and not {SAME_AS, IMPOSSIBLE, WARM, PROMOTED} & trial.user_attrs.keys()


@contextmanager
def alone(search: Search, home: Home) -> Iterator[None]:
    """One process at a time asks and tells.

    Raises:
        SpecError: another one is at it.
    """
    home.locks.mkdir(parents=True, exist_ok=True)
    path = home.locks / f"search-{study_name(search).replace('/', '_')}"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise SpecError(
                f"{search.file}: another `star-exp search` ({file.read().strip() or 'a process'}) is at {study_name(search)}; "
                "only one asks at a time: stop that one, or wait for its end. --parallel says how many trials run at once."
            ) from None
        except OSError as error:
            log.warning("%s: this file system has no locks (%s); begin one search of a study at a time", path, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield

"""A study: Optuna's trials of one search, in a database that optuna-dashboard can read while the search goes on.

One process asks and tells. What a trial waits for is in the ledger and in the jobs' folders, so a study holds only
what Optuna needs to choose.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from star.errors import LedgerError, NotFoundError, SpecError
from star.ledger.database import Database, address
from star.rundir import Home
from star.scheduler.plan import make_plan
from star.search.choosing import distribution, make_pruner, make_sampler
from star.spec.builtin import given_fields
from star.spec.diff import ABSENT, differences
from star.spec.points import Point, Search, start_points
from star.spec.search import Parameter, Pruner
from star.sqlite_file import copy_to_read, url_of
from star.words import shown

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
logging.getLogger().addHandler(logging.NullHandler())  # or Optuna's migrations would configure the root logger
if (
    logging.lastResort is not None
):  # a handler at the root turns off Python's last-resort output, which star's warnings need
    logging.getLogger("star").addHandler(logging.lastResort)
log = logging.getLogger(__name__)
SCHEMA = "star_studies"
"""Schema of Optuna's tables in a PostgreSQL database, which holds the ledger too."""
SAME_AS = "same_as"
"""Attribute of a trial: the earlier trial with the same run."""
IMPOSSIBLE = "impossible"
"""Attribute of a trial: that its values give no legal run."""
WARM = "warm_start"
"""Attribute of a trial: the runs of earlier experiments that it was made from."""
PROMOTED = "promoted"
"""Attribute of a trial: the trial that it continues."""
WHY = "why"
"""Attribute of a trial: why it ended."""
RUN = "run"
"""Attribute of a trial: the key of its run."""
HOURS, EARLY_HOURS = "hours", "early_hours"
"""Attributes of a trial: its device hours, and those of measurements before its end."""


def studies_url(home: Home) -> str:
    """URL of a home's studies, beside its ledger; optuna-dashboard takes it too. It may hold a password."""
    url = address(home.ledger)
    if url.startswith("sqlite"):
        return url_of(home.studies)
    made = Database(url).url
    given = made.query.get("options", "")
    options = f"{given} -csearch_path={SCHEMA}".strip()
    return made.update_query_dict({"options": options}).render_as_string(hide_password=False)


def open_storage(home: Home, to_read: bool = False) -> optuna.storages.BaseStorage:
    """Open the studies' database; it is created if missing.

    Args:
        to_read: write nothing to a server, whose tables must be there (`are_there`), and open a copy of a file if the home
            is not writable or its disk is full.

    Raises:
        LedgerError: the database cannot be used.
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
        elif not to_read:
            statement = f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"
            Database(address(home.ledger)).write(lambda connection: connection.exec_driver_sql(statement))
        made = not url.startswith("sqlite") and to_read
        return optuna.storages.get_storage(
            optuna.storages.RDBStorage(url, engine_kwargs=patient, skip_table_creation=made)
        )
    except (SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
        place = f"{shown(home.studies)}: " if url.startswith("sqlite") else ""
        remedy = (
            "; if it is damaged, move it away: `star-exp search` then begins the study again, with what is computed"
            if place
            else ""
        )
        raise LedgerError(
            f"{place}the studies' database cannot be used: {str(error).splitlines()[0]}{remedy}"
        ) from None


def are_there(home: Home) -> bool:
    """Whether a home has a database of studies; reading must not create it."""
    if studies_url(home).startswith("sqlite"):
        return home.studies.exists()
    return Database(address(home.ledger)).read(lambda connection: inspect(connection).has_table("studies", SCHEMA))


def _may_write(file: Path) -> bool:
    """Whether SQLite can write the journal that it needs even to read."""
    return (
        os.access(file, os.W_OK) and os.access(file.parent, os.W_OK) and shutil.disk_usage(file.parent).free > 1 << 20
    )


class Study:
    """One search's trials.

    Args:
        begin: whether to create a missing study, and enqueue the file's start points as its first trials.

    Raises:
        SpecError: the study was begun with another base, space or objective, or its sampler is not installed.
        NotFoundError: there is no study, and `begin` is false.
    """

    def __init__(self, search: Search, home: Home, begin: bool = True) -> None:
        self.search = search
        self.distributions = {name: distribution(search, name) for name in search.spec.space}
        name, pruner = study_name(search), make_pruner(search)
        if not begin:
            self.optuna = _existing(search, home, pruner)
            self._refuse_others(identity(search))
            return
        make_sampler(search, 0)  # raises if it is not installed
        directions = [objective.direction for objective in search.spec.objectives]
        default = make_plan(
            search.experiment([("default", search.default)], search.spec.seeds, search.targets), home, None
        )
        now, storage = {**identity(search), "default run": default.runs[0].key}, open_storage(home)
        for _ in range(2):
            self.optuna = optuna.create_study(
                storage=storage, study_name=name, directions=directions, pruner=pruner, load_if_exists=True
            )
            if not self._others(now) or any(trial.state != TrialState.WAITING for trial in self.trials()):
                break
            optuna.delete_study(study_name=name, storage=storage)  # nothing has begun: it may become another
        self._refuse_others(now)
        self.optuna.set_user_attr("search", self.optuna.user_attrs.get("search", now))
        for point in start_points(search):
            if not self._has(point):
                self.optuna.enqueue_trial(point)

    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        return self.optuna.get_trials(deepcopy=False)

    def complete(self) -> list[FrozenTrial]:
        """Complete trials; those with the same run as an earlier trial are left out."""
        return complete_of(self.trials())

    def counted(self) -> int:
        """Number of trials that count towards the total; see `counts`."""
        return sum(counts(trial) for trial in self.trials())

    def ask(self) -> tuple[optuna.Trial, Point]:
        """A new trial and its point: the next enqueued one, or the sampler's choice."""
        number = sum(trial.state != TrialState.WAITING for trial in self.trials())
        self.optuna.sampler = make_sampler(self.search, number)
        trial = self.optuna.ask()
        return trial, self.suggested(trial)

    def again(self, frozen: FrozenTrial) -> tuple[optuna.Trial, Point]:
        """Resume a trial that was running when the search was last stopped; missing parameters are sampled now."""
        self.optuna.sampler = make_sampler(self.search, frozen.number)
        trial = optuna.Trial(self.optuna, frozen._trial_id)
        return trial, self.suggested(trial)

    def suggested(self, trial: optuna.Trial) -> Point:
        """The point of a trial; parameters that it does not have yet are sampled."""
        point: Point = {}
        for name in self.search.spec.space:
            if self.search.active(point, name):
                point[name] = trial._suggest(name, self.distributions[name])
        return point

    def tell(self, number: int, values: list[float] | None, state: TrialState, **notes: Any) -> None:
        """End a trial with values and a state; `notes` become its user attributes."""
        trial_id = self.trials()[number]._trial_id
        for name, value in notes.items():
            self.optuna._storage.set_trial_user_attr(trial_id, name, value)
        self.optuna.tell(number, values, state)

    def add(self, point: Point, values: list[float], **notes: Any) -> None:
        """Add a complete trial whose values are known; `notes` become its user attributes."""
        distributions = {name: self.distributions[name] for name in point}
        self.optuna.add_trial(
            optuna.trial.create_trial(params=point, distributions=distributions, values=values, user_attrs=notes)
        )

    def _has(self, point: Point) -> bool:
        return any(trial.params == point or trial.system_attrs.get("fixed_params") == point for trial in self.trials())

    def _others(self, now: dict[str, Any]) -> list[str]:
        """What was different when the study was begun."""
        before = self.optuna.user_attrs.get("search")
        # a field of a run that is newer than the study had its default; what else it changes shows in the default run's key
        return [
            str(one)
            for one in differences(_with_defaults(before) if before else now, now)
            if ABSENT not in (one.old, one.new) or not one.path.startswith(("base.", "default run"))
        ]

    def _refuse_others(self, now: dict[str, Any]) -> None:
        if found := self._others(now):
            more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
            raise SpecError(
                f"{self.search.file}: the study {study_name(self.search)} was begun with other values: {'; '.join(found[:5])}{more}. "
                "Its trials cannot be compared with new ones: give --name NAME to begin another, or undo the change."
            )


def _with_defaults(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a study noted when it was begun, with fields of a search's parameters and pruner that are newer."""
    parameter, pruner = (
        {name: field.get_default(call_default_factory=True) for name, field in kind.model_fields.items()}
        for kind in (Parameter, Pruner)
    )
    space = {name: parameter | given for name, given in identity["space"].items()}
    return {**identity, "space": space, "pruner": pruner | identity["pruner"]}


def _existing(search: Search, home: Home, pruner: BasePruner) -> optuna.Study:
    name = study_name(search)
    missing = NotFoundError(
        f"{search.file}: the study {name} has no trials yet; `star-exp search {search.file}` begins it."
    )
    if not are_there(home):
        raise missing
    try:
        return optuna.load_study(storage=open_storage(home, to_read=True), study_name=name, pruner=pruner)
    except KeyError:
        raise missing from None


def study_name(search: Search) -> str:
    """Name of a search's study: `NAME@PROFILE`."""
    return f"{search.name}@{search.profile}"


def identity(search: Search) -> dict[str, Any]:
    """What all trials of a study must have in common."""
    base = search.default.model_dump(mode="json", exclude={"resources"})
    for path in given_fields():  # these files' contents are part of a run's key, their paths are not
        section, field = path.split(".")
        base.get(section, {}).pop(field, None)
    base.pop("plugins", None)  # their contents are in the key of the default run; their paths do not matter
    for script in base.get("stages", {}).values():
        del script["folder"], script["reads"]
    spec = search.spec.model_dump(mode="json", include={"space", "seeds", "pruner"})
    objectives = [[objective.metric, objective.direction] for objective in search.spec.objectives]
    return {"base": base, "objectives": objectives, **spec}


def complete_of(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The complete ones of some trials; those with the same run as an earlier trial are left out."""
    return [trial for trial in trials if trial.state == TrialState.COMPLETE and SAME_AS not in trial.user_attrs]


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards the total: not if it waits, or has SAME_AS, IMPOSSIBLE, WARM or PROMOTED."""
    return trial.state != TrialState.WAITING and not {SAME_AS, IMPOSSIBLE, WARM, PROMOTED} & trial.user_attrs.keys()


@contextmanager
def alone(search: Search, home: Home) -> Iterator[None]:
    """Hold the study's lock: one process at a time asks and tells. Without file locks there is only a warning.

    Raises:
        SpecError: another process holds the lock.
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

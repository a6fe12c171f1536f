"""Studies as read from their database, without the search's file: trials, front, importances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from star.rundir import Home
from star.search.importances import FEWEST, importances_of, parameters_of
from star.search.study import are_there, complete_of, open_storage


@dataclass(frozen=True)
class Objective:
    """A number that a study minimises or maximises."""

    title: str
    direction: str


@dataclass
class StudyView:
    """A view of one study, for reading."""

    name: str
    optuna: optuna.Study

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        return self.optuna.get_trials(deepcopy=False)

    @cached_property
    def objectives(self) -> list[Objective]:
        """The objectives as they were when the study began."""
        told: Sequence[Sequence[str]] = self.optuna.user_attrs.get("search", {}).get("objectives", [])
        titles = [metric for metric, _ in told]
        directions = ["maximize" if d == StudyDirection.MAXIMIZE else "minimize" for d in self.optuna.directions]
        named = titles if len(titles) == len(directions) else [f"objective {i + 1}" for i in range(len(directions))]
        return [Objective(title, direction) for title, direction in zip(named, directions, strict=True)]

    @property
    def parameters(self) -> list[str]:
        """The names of all parameters that any trial has, in the order of their first use."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.params))

    def better(self, one: float, other: float) -> float:
        """The better of two values of the first objective."""
        return max(one, other) if self.objectives[0].direction == "maximize" else min(one, other)

    def front(self) -> list[int]:
        """Numbers of the trials that no other beats in every objective."""
        return [trial.number for trial in self.optuna.best_trials]

    def complete(self) -> list[FrozenTrial]:
        """Complete trials; those with the same run as an earlier trial are left out."""
        return complete_of(self.trials)

    def best(self) -> FrozenTrial | None:
        """The best complete trial; None if there is none, or if there are several objectives."""
        done = self.complete()
        if not done or len(self.objectives) > 1:
            return None
        sign = 1.0 if self.objectives[0].direction == "maximize" else -1.0
        return max(done, key=lambda trial: sign * trial.values[0])

    def importances(self) -> dict[str, float]:
        """Share of each parameter in the first objective's variance (fANOVA); empty while there are too few trials."""
        done = self.complete()
        if len(done) < FEWEST:
            return {}
        of = tuple((trial.number, trial.values[0], *trial.params.items()) for trial in done)
        known = _IMPORTANCES.get(self.name)
        if known is None or known[0] != of:
            found = importances_of(done, [trial.values[0] for trial in done], parameters_of(done))
            known = _IMPORTANCES[self.name] = of, found
        return known[1]


_IMPORTANCES: dict[str, tuple[object, dict[str, float]]] = {}
"""Study -> the trials that they were last computed from, and importances: a page asks for them at each view."""


def studies(home: Home) -> list[StudyView]:
    """All studies of a home.

    Raises:
        LedgerError: their database cannot be used.
    """
    if not are_there(home):
        return []
    storage = open_storage(home, to_read=True)
    names = sorted(optuna.get_all_study_names(storage))
    return [StudyView(name, optuna.load_study(study_name=name, storage=storage)) for name in names]


def read_study(home: Home, name: str) -> StudyView | None:
    """One study; None where there is none of this name.

    Raises:
        LedgerError: the database cannot be used.
    """
    if not are_there(home):
        return None
    try:
        return StudyView(name, optuna.load_study(study_name=name, storage=open_storage(home, to_read=True)))
    except KeyError:
        return None

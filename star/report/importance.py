"""The importance of each parameter, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from star.search.study import SAME_AS, Study

SETS = 20
"""Number of bootstrapped sets of trials."""
TREES = 32
FEWEST = 6
"""Fewest trials from which importances are computed: with fewer a random forest says nothing."""


@dataclass(frozen=True)
class Importance:
    """A parameter's share of the variance of the objective."""

    name: str
    mean: float
    deviation: float
    """Standard deviation of the share over bootstrapped sets of trials."""


def importances(study: Study) -> dict[str, list[Importance]]:
    """Where the first objective was measured -> the parameters' shares of its variance.

    It is measured at the end, and at the first comparison. Trials that reach the end are a selection; those at the
    first comparison are not.
    """
    spec, found = study.search.spec, {}
    whole = [(trial, trial.values[0]) for trial in study.complete()]
    if len(whole) >= FEWEST:
        found[f"at the end, {len(whole)} trials"] = _shares(study, whole)
    step = spec.pruner.min_steps
    trials = [trial for trial in study.trials() if SAME_AS not in trial.user_attrs]
    early = (
        [(trial, trial.intermediate_values[step]) for trial in trials if step in trial.intermediate_values]
        if step
        else []
    )
    if len(early) >= FEWEST:
        found[f"at step {step}, {len(early)} trials"] = _shares(study, early)
    return found


def _shares(study: Study, points: Sequence[tuple[FrozenTrial, float]]) -> list[Importance]:
    import numpy as np

    draws, names = np.random.default_rng(0), _everywhere(points)
    shares: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(SETS):
        drawn = [points[i] for i in draws.integers(0, len(points), len(points))]
        for name, share in _fanova(study, drawn, names).items():
            shares[name].append(share)
    return [Importance(name, fmean(values), pstdev(values)) for name, values in shares.items() if values]


def _everywhere(points: Sequence[tuple[FrozenTrial, float]]) -> list[str]:
    """Names of the parameters that all trials have."""
    return [name for name in points[0][0].params if all(name in trial.params for trial, _ in points)]


def _fanova(study: Study, points: Sequence[tuple[FrozenTrial, float]], names: list[str]) -> dict[str, float]:
    if len({value for _, value in points}) < 2:
        return {}
    copied = optuna.create_study(direction=study.search.spec.objectives[0].direction)
    for trial, value in points:
        distributions = {name: study.distributions[name] for name in names}
        params = {name: trial.params[name] for name in names}
        copied.add_trial(
            create_trial(state=TrialState.COMPLETE, params=params, distributions=distributions, value=value)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=0)
    try:
        return dict(optuna.importance.get_param_importances(copied, evaluator=evaluator, params=names))
    except RuntimeError:  # a set in which no parameter varies
        return {}

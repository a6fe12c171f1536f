"""The share of each parameter in an objective's variance (fANOVA: Hutter et al. 2014), from a study's trials."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

TREES = 32
MOST = 500
"""Most trials that the forest is grown on, a fixed random part of more: its time grows faster than their number."""
FEWEST = 6
"""Fewest trials from which importances are computed: with fewer a random forest says nothing."""


def parameters_of(trials: Sequence[FrozenTrial]) -> list[str]:
    """Names of the parameters that all trials have."""
    return [name for name in trials[0].params if all(name in trial.params for trial in trials)]


def importances_of(trials: Sequence[FrozenTrial], values: Sequence[float], names: list[str]) -> dict[str, float]:
    """Name of each parameter -> its share of the variance of `values`, 0 to 1; empty if nothing varies.

    Args:
        trials: at least one.
        values: the objective of each trial.
        names: parameters that all trials have.
    """
    if not names or len(set(values)) < 2:
        return {}
    study = optuna.create_study()
    for i in np.sort(np.random.default_rng(0).permutation(len(trials))[:MOST]):
        trial, value = trials[i], values[i]
        params, distributions = ({name: of[name] for name in names} for of in (trial.params, trial.distributions))
        study.add_trial(
            create_trial(state=TrialState.COMPLETE, params=params, distributions=distributions, value=value)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=0)
    try:
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=names))
    except (RuntimeError, ValueError):  # trials in which no parameter varies
        return {}

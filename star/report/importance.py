"""The importance of each parameter, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from optuna.trial import FrozenTrial

from star.search.importances import FEWEST, importances_of, parameters_of
from star.search.study import SAME_AS, Study

SETS = 20
"""Number of bootstrapped sets of trials."""


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
        found[f"at the end, {len(whole)} trials"] = _shares(whole)
    step = spec.pruner.min_steps
    trials = [trial for trial in study.trials() if SAME_AS not in trial.user_attrs]
    early = (
        [(trial, trial.intermediate_values[step]) for trial in trials if step in trial.intermediate_values]
        if step
        else []
    )
    if len(early) >= FEWEST:
        found[f"at step {step}, {len(early)} trials"] = _shares(early)
    return found


def _shares(points: Sequence[tuple[FrozenTrial, float]]) -> list[Importance]:
    import numpy as np

    draws, names = np.random.default_rng(0), parameters_of([trial for trial, _ in points])
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(SETS):
        drawn = [points[i] for i in draws.integers(0, len(points), len(points))]
        trials, values = zip(*drawn, strict=True)
        for name, share in importances_of(trials, values, names).items():
            found[name].append(share)
    return [Importance(name, fmean(shares), pstdev(shares)) for name, shares in found.items() if shares]

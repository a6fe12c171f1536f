"""Optuna's samplers, pruners and distributions for a search's file."""

from __future__ import annotations

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler

from star.errors import SpecError
from star.spec.points import Search, number_kind


def make_sampler(search: Search, number: int) -> BaseSampler:
    """The sampler for one trial, seeded from the trial's number, so that a resumed search repeats no random numbers.

    Raises:
        SpecError: a package that the sampler needs is not installed.
    """
    spec, name = search.spec.sampler, sampler_name(search)
    seed = (spec.seed * 1_000_003 + number) % 2**32
    samplers = optuna.samplers
    if name == "tpe":
        branches = any(parameter.when for parameter in search.spec.space.values())
        return samplers.TPESampler(seed=seed, n_startup_trials=spec.startup, multivariate=True, group=branches)
    if name == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=spec.startup, warn_independent_sampling=False)
    if name == "cmaes":
        try:
            import cmaes  # noqa: F401
        except ImportError:
            raise SpecError(
                f"{search.file}: sampler.name: cmaes needs the package of that name, which is not installed; `pip install -e '.[search]'` "
                "brings it, or choose tpe."
            ) from None
        return samplers.CmaEsSampler(seed=seed, n_startup_trials=spec.startup, warn_independent_sampling=False)
    if name == "nsgaii":
        return samplers.NSGAIISampler(seed=seed, population_size=max(2, spec.startup))
    return samplers.RandomSampler(seed=seed)


def sampler_name(search: Search) -> str:
    """Name of the sampler that is used; `default` means nsgaii for several objectives, else tpe."""
    name = search.spec.sampler.name
    return name if name != "default" else "nsgaii" if len(search.spec.objectives) > 1 else "tpe"


def make_pruner(search: Search) -> BasePruner:
    """The search's pruner; its steps are optimizer steps."""
    spec = search.spec.pruner
    if spec.name == "none" or spec.min_steps is None:
        return NopPruner()
    if spec.name == "halving":
        return SuccessiveHalvingPruner(spec.min_steps, spec.reduction)
    assert search.default.training is not None, "checked when the file was read"
    return HyperbandPruner(spec.min_steps, search.default.training.steps, spec.reduction)


def distribution(search: Search, name: str) -> BaseDistribution:
    """Optuna's distribution for a parameter of a search."""
    parameter = search.spec.space[name]
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    low, high, step = parameter.low, parameter.high, parameter.step
    assert low is not None and high is not None
    if number_kind(search, name) == "integer":
        return IntDistribution(int(low), int(high), parameter.log, int(step or 1))
    return FloatDistribution(float(low), float(high), parameter.log, None if step is None else float(step))

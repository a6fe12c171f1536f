"""Which seeds a row runs when `--seeds auto` adds some: those of the file first, then the smallest numbers it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, count, islice

from star.spec.experiment import Experiment, ExperimentSpec


def seed_order(spec: ExperimentSpec, number: int) -> list[int]:
    """The first `number` seeds of an experiment's rows."""
    more = (seed for seed in count() if seed not in spec.seeds)
    return list(islice(chain(spec.seeds, more), number))


def with_seeds(experiment: Experiment, counts: Mapping[str, int]) -> Experiment:
    """The experiment with so many seeds in each row, marked as one whose seeds are added while claims are open.

    Args:
        counts: row label -> number of seeds; rows that are missing get as many as the first look wants.
    """
    spec, variants = experiment.spec, []
    for variant in experiment.variants:
        runs = variant.runs
        if runs and runs[0].has_seed:
            seeds = seed_order(spec, counts.get(variant.label, spec.looks[0]))
            runs = tuple(runs[0].model_copy(update={"seed": seed}) for seed in seeds)
        variants.append(replace(variant, runs=runs))
    return replace(experiment, variants=tuple(variants), seeding="auto")

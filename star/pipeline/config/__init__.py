"""The sections of a run of ST-AR, a file for each stage that brings some: fields, defaults (the paper's), ranges and checks."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from star.pipeline import STAGES
from star.pipeline.config.dataset import SOURCES, DataSpec
from star.pipeline.config.plugged import OWN_TERMS, RunWithPlugins, plugged
from star.pipeline.config.resources import StarResources
from star.pipeline.config.run import StarRun
from star.pipeline.config.tokenizer import TokenizerSpec
from star.spec.assemble import Runs, resources_class, run_of

if TYPE_CHECKING:
    RunSpec = StarRun
    ResourceSpec = StarResources
else:
    ResourceSpec = resources_class(StarResources, STAGES)
    RunSpec = run_of(StarRun, STAGES, ResourceSpec, "RunSpec")


@cache
def _with_plugins() -> type[RunWithPlugins]:
    return run_of(RunWithPlugins, STAGES, ResourceSpec, "RunWithPlugins")


RUNS = Runs(
    plain=RunSpec,
    with_plugins=_with_plugins,
    resources=StarResources,
    fields_of=plugged,
    taken=frozenset((*SOURCES, *DataSpec.model_fields, *TokenizerSpec.model_fields, "vq")),
    own_terms=OWN_TERMS,
)

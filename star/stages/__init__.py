"""The stages' code: the only place where a RunSpec is wired to the parts. Names and inputs are in `star.spec.graph`."""

from __future__ import annotations

from collections.abc import Callable

from star.stages.context import Context, Result
from star.stages.images import dataset, encode, tokenizer
from star.stages.measuring import attention, invariance, probe, reference, score
from star.stages.training import generate, train

__all__ = ["STAGES", "Context"]

STAGES: dict[str, Callable[[Context], Result]] = {
    stage.__name__: stage
    for stage in (dataset, tokenizer, encode, train, reference, generate, score, probe, attention, invariance)
}

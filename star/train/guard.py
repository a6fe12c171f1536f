"""Detection of what goes wrong in training: a loss that diverges, memory that runs out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from star.errors import DataError, StarError
from star.rundir import read_json, write_json

MARGIN = 2.0
"""Nats by which a model may be worse than one that guesses uniformly."""


class DivergedError(StarError):
    """The loss is NaN or infinite, or far above that of guessing."""


def check(values: Mapping[str, float], step: int, codebook_size: int, rate: float, kept: str) -> None:
    """Stop a run that has diverged: a loss is NaN or infinite, or the next-token loss is far above that of guessing.

    Args:
        values: losses and gradient norm after `step` steps.
        rate: the learning rate of that step.
        kept: the error message's sentence on the checkpoint to go back to.

    Raises:
        DivergedError: the run has diverged; the message has the numbers, what to change, and the last good state.
    """
    guess = math.log(codebook_size)
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        what = ", ".join(f"{name} is {values[name]}" for name in broken)
    elif values["ar_loss"] > guess + MARGIN:
        what = f"ar_loss is {values['ar_loss']:.3g} nats, far above the {guess:.3g} of guessing among {codebook_size} codes"
    else:
        return
    raise DivergedError(
        f"after step {step} {what} (loss {values['loss']:.4g}, gradient norm {values['grad_norm']:.3g}, learning rate "
        f"{rate:.3g}); lower optim.lr, raise optim.warmup_steps, or set optim.grad_clip. {kept}"
    )


def finite_nll(nll: float, step: int) -> float:
    """Return the validation loss `nll` if it is finite.

    Raises:
        DivergedError: it is not, so neither samples nor a probe of this model would mean anything.
    """
    if not math.isfinite(nll):
        raise DivergedError(
            f"after step {step} the validation loss is {nll}: the model's outputs are not finite; lower optim.lr, raise "
            "optim.warmup_steps, set optim.grad_clip, or give other model.weights."
        )
    return nll


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


class MicroBatch:
    """Images per forward pass and rank; halved when memory runs out, and stored in a folder for later attempts."""

    def __init__(self, folder: Path, wanted: int) -> None:
        self.path = folder / "micro_batch.json"
        found = read_json(self.path)
        self.stored: int = found["size"] if found else 0
        self.size = min(wanted, self.stored or wanted)

    def halve(self) -> None:
        """Halve the size, rounded up, for this and later attempts.

        Raises:
            DataError: the size is one image already.
        """
        if self.size == 1:
            raise DataError(
                "memory runs out with one image per forward pass: choose a smaller model, "
                "or resources.parallel: fsdp with more resources.train.processes."
            )
        self.size = (self.size + 1) // 2
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"size": self.size})

"""Training one model on several ranks, replicated (DDP) or sharded (FSDP2), and its full state for any number of ranks.

Losses are shares of the global batch's, so the gradients of ranks must be summed. DDP and FSDP2 average them; the
trainer therefore multiplies its loss by the number of ranks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from star.objectives.backbone import Pass, StudentOutput
from star.objectives.objective import Objective
from star.ranks import Ranks


def parallelize(objective: Objective, parallel: str, ranks: Ranks) -> Callable[[Pass], StudentOutput]:
    """Prepare an objective for training on `ranks`; return the callable to use in place of its learner."""
    if ranks.world_size == 1:
        return objective.learner
    if parallel == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():  # torch 2.13 renames broadcast_buffers; 2.11 does not know the new name
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(objective.learner, broadcast_buffers=False, gradient_as_bucket_view=True)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(next(objective.parameters()).device.type, (ranks.world_size,))
    for block in cast(Any, objective.student).layers:
        fully_shard(block, mesh=mesh)
    fully_shard(objective.learner, mesh=mesh)
    if objective.teacher is not None:
        teacher = objective.teacher.copy
        for block in teacher.layers:
            fully_shard(block, mesh=mesh)
        # the teacher has no backward pass after which its weights would be resharded
        fully_shard(teacher, mesh=mesh, reshard_after_forward=True)
        for method in ("features", "hidden_at", "through"):
            register_fsdp_forward_method(teacher, method)
    # averages of heads are not sharded: they are small, and a term may use their parts in any way
    return objective.learner


@contextmanager
def accumulating(learner: Callable[[Pass], StudentOutput], last: bool) -> Iterator[None]:
    """A context for one micro-batch: copies exchange gradients only in the last.

    Shards do in each: until they do, every rank holds all gradients, and passes are made smaller where memory is short.
    """
    if last or not hasattr(learner, "no_sync"):
        yield
        return
    with learner.no_sync():
        yield


def full_tensor(value: Tensor) -> Tensor:
    """The full tensor of a sharded one, gathered by all ranks; other tensors are returned as they are."""
    return cast(Any, value).full_tensor() if hasattr(value, "full_tensor") else value


def full_state_dict(objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything the next step depends on, unsharded and on the CPU, the same for any number of ranks.

    All ranks must call it; the first gets the state, the others may get an empty one.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model, optim = get_state_dict(objective, optimizer, options=options)
    return {"objective": model, "optimizer": optim}


FORMER = {
    "learner.projector.": "learner.heads.contrastive.",
    "teacher_projector.copy.": "head_averages.contrastive.copy.",
}
"""Prefixes of module names in old checkpoints -> their present ones."""


def renamed(state: Any) -> Any:
    """A checkpoint's state with the present names of modules, in the model's part and the optimizer's."""
    if isinstance(state, dict):
        return {_renamed(key) if isinstance(key, str) else key: renamed(value) for key, value in state.items()}
    if isinstance(state, list):
        return [renamed(value) if isinstance(value, dict | list) else _renamed(value) for value in state]
    return state


def _renamed(name: Any) -> Any:
    old = next((old for old in FORMER if isinstance(name, str) and name.startswith(old)), None)
    return name if old is None else FORMER[old] + name.removeprefix(old)


def load_full_state_dict(objective: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a full state into model and optimizer; every rank passes all of it and keeps its shard."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    set_state_dict(
        objective,
        optimizer,
        model_state_dict=state["objective"],
        optim_state_dict=state["optimizer"],
        options=StateDictOptions(full_state_dict=True),
    )

"""The processes that share one job: who this one is, and the few things they tell each other.

One process alone is the ordinary case: nothing is initialised, nothing is sent.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(hours=2)
"""How long ranks wait for the slowest."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among `world_size`."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """This rank's rows of `total`, which `world_size` divides."""
        assert total % self.world_size == 0, f"{total} rows over {self.world_size} ranks"
        own = total // self.world_size
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, own: Tensor) -> Tensor:
        """The tensors of all ranks, concatenated in their order; all have the same shape."""
        if self.world_size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    def all_reduce(self, own: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.world_size > 1:
            own = own.clone()
            dist.all_reduce(own)
        return own

    def any(self, own: bool) -> bool:
        """Whether any rank says so: all leave a loop at the same step. Over the CPU, so that no GPU has to wait."""
        if self.world_size == 1:
            return own
        flag = torch.tensor(int(own))
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def barrier(self) -> None:
        """Wait until all ranks have reached this line."""
        self.any(False)


ALONE = Ranks()


def join(device_type: str) -> Ranks:
    """The ranks of this job, as torchrun's environment names them; alone without it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    return Ranks(dist.get_rank(), count)


def leave(ranks: Ranks) -> None:
    """Close what `join` opened, all ranks together."""
    if ranks.world_size > 1:
        ranks.barrier()
        dist.destroy_process_group()


def exit_now(code: int) -> NoReturn:
    """End a process that had been one of several.

    Not through the interpreter's own end: process groups that a device mesh still holds are torn down there in any
    order, and now and then the process aborts with its work long done.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

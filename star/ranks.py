"""The processes (ranks) that share one job: this process's rank, and the few messages that they exchange.

With a single process, the ordinary case, nothing is initialised and nothing is sent.
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
"""Timeout of collectives: how long ranks wait for the slowest."""


@dataclass(frozen=True)
class Ranks:
    """This process's rank among `world_size` processes."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the one that writes files."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """This rank's slice of `total` rows, which must be a multiple of `world_size`."""
        assert total % self.world_size == 0, f"{total} rows over {self.world_size} ranks"
        own = total // self.world_size
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, own: Tensor) -> Tensor:
        """The tensors of all ranks, concatenated along dimension 0 in rank order; all must have the same shape."""
        if self.world_size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    def all_reduce(self, own: Tensor) -> Tensor:
        """The sum of `own` over all ranks; `own` is left unchanged."""
        if self.world_size > 1:
            own = own.clone()
            dist.all_reduce(own)
        return own

    def any(self, own: bool) -> bool:
        """Whether `own` is true on any rank, so that all leave a loop at the same step. On the CPU, so no GPU waits."""
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
    """Join the ranks of this job, as torchrun's environment describes them; without it, a process is alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    return Ranks(dist.get_rank(), count)


def leave(ranks: Ranks) -> None:
    """Wait for all ranks, then destroy the process group that `join` created."""
    if ranks.world_size > 1:
        ranks.barrier()
        dist.destroy_process_group()


def exit_now(code: int) -> NoReturn:
    """End a process that was one of several ranks, without the interpreter's shutdown.

    The shutdown destroys process groups that a device mesh still holds in any order, so now and then a process aborts
    after its work is done.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

"""A worker whose second rank runs out of memory once, in its fifth step: `torchrun ... memory_on_a_rank.py JOB_DIR`.

Run by test_workers.py. A real lack of memory on one of two CPU ranks cannot be had without starving the other.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from star.train.trainer import Trainer
from star.worker import main

plain = Trainer._gradients


def scarce(self: Trainer, batch: Any) -> Any:
    if self.ranks.rank == 1 and self.step == 4:
        raise torch.OutOfMemoryError("CUDA out of memory (as PyTorch would say it)")
    return plain(self, batch)


if __name__ == "__main__":
    os.environ["STAR_CHILD"] = "1"
    Trainer._gradients = scarce  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1]))

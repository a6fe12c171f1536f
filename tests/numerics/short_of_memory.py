"""Two training steps in a process that may only take so much more memory: `short_of_memory.py FOLDER MEGABYTES`.

Prints the losses and the micro-batch that was left as JSON; 0 megabytes is no limit. Run by test_training.py.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np
import psutil
import torch

from star.train.trainer import Trainer
from tests.helpers import tiny, write_store


def main(folder: Path, megabytes: int) -> None:
    torch.set_num_threads(1)
    rng, stores = np.random.default_rng(0), []
    for split, count, views in (("train", 300, 10), ("test", 20, 1)):
        codes, labels = rng.integers(0, 32, (count, views, 49)), rng.integers(0, 10, count)
        stores.append(write_store(folder / split, codes, labels))
    spec = tiny(
        optim__steps=2, optim__batch_size=256, optim__lr=0.01, data__train_images=300, model__dim=64, model__n_layer=4
    )
    losses: list[float] = []
    trainer = Trainer(
        spec,
        stores[0],
        stores[1],
        folder / "checkpoints",
        torch.device("cpu"),
        record=lambda step, metrics: losses.append(metrics["loss"]),
        progress=lambda done, total: None,
        stop=lambda: False,
    )
    if megabytes:
        limit = psutil.Process().memory_info().vms + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    trainer.train()
    print(json.dumps({"losses": losses, "micro": trainer.micro.size}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

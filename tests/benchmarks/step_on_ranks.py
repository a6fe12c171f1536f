"""How long a step takes on the ranks that started this (gloo): rank 0 writes the median to the file that is named."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from star.ranks import exit_now, join, leave
from tests.benchmarks.growth import fashion, step

IMAGES, ROUNDS = 32, 12


def main(told: Path) -> None:
    """Measure."""
    ranks = join("cpu")
    run = step(fashion(), IMAGES, ranks)
    taken = []
    for _ in range(ROUNDS):
        ranks.barrier()
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    if ranks.is_main:
        told.write_text(str(statistics.median(taken[2:])))
    leave(ranks)
    if ranks.world_size > 1:
        exit_now(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What it costs to know 50,000 images: `python -m tests.benchmarks.looking [FILES]`.

The first look reads every file; later ones ask the file system about each, which is the floor that is measured beside.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from star.data.folders import Tree
from star.data.manifests import Manifests
from star.rundir import Home
from star.scheduler import manifests
from tests.data.test_imports import encoded

CLASSES = 1000
ROUNDS = 5


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def floor(root: Path) -> None:
    """Every file asked about once, and nothing kept."""
    for folder in os.scandir(root):
        for entry in os.scandir(folder.path):
            entry.stat()


def main(files: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root, home = Path(scratch) / "images", Home(Path(scratch) / "home")
        home.path.mkdir()
        for name in range(CLASSES):
            (root / f"n{name:04d}").mkdir(parents=True)
            for i in range(files // CLASSES):
                (root / f"n{name:04d}" / f"{i}.png").write_bytes(encoded(i % 256) + bytes([name % 256, i % 256]))
        time.sleep(manifests.SETTLED)  # what was just written is not remembered
        first = timed(lambda: Manifests(home).tree(Tree.of(root, states=True)))
        again, least = [], []
        for _ in range(ROUNDS):
            least.append(timed(lambda: floor(root)))
            again.append(timed(lambda: Manifests(home).tree(Tree.of(root, states=True))))
        asked, known = statistics.median(least), statistics.median(again)
        print(f"{files} files in {CLASSES} folders")
        print(f"first look, all contents read   {first:6.2f} s   {first / asked:5.1f} x")
        print(f"unchanged                       {known:6.2f} s   {known / asked:5.1f} x")
        print(f"every file asked about          {asked:6.2f} s       1 x")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)

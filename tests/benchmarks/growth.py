"""How costs grow with what is asked for, each curve with its exponent, and whether that is slower than it was.

    python -m tests.benchmarks.growth [--out FOLDER] [--against FILE] [--only NAME ...]

A step is the profile `fashion`'s, ST-AR, one computing thread. Its limit is the rate of matrix products, measured in the same
run. `--out` writes growth.json and growth.md; `--against` compares with such a growth.json, each run in units of its own
yardstick (the matrix rate for training, a loop of SQLite and Python for the rest), and ends with exit code 1 if a point of a
curve takes SLOWER times as long.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from star.ledger.states import DONE, FINISHED, Allocation, NewJob
from star.ledger.store import open_ledger
from star.model.gpt import GPT
from star.objectives.batch import ClassDropout, draw_batch
from star.objectives.objective import Objective
from star.objectives.st_ar import st_ar
from star.pipeline.config import RunSpec
from star.pipeline.train import train_flops
from star.ranks import ALONE, Ranks
from star.rundir import Home
from star.spec.load import load
from star.torch_setup import keep_freed_memory, repeatable
from star.train.distributed import parallelize
from tests.benchmarks import reports
from tests.helpers import ROOT

SLOWER = 1.3
"""A point that takes this many times as long as before is told of."""
ROUNDS = 5
IMAGES = 24


class Curve(NamedTuple):
    """Sizes, and how long each takes."""

    name: str
    sizes: list[int]
    seconds: list[float]
    yardstick: str
    """What its times are compared by: `matrix` or `platform`."""
    flops: list[float] | None = None

    def exponent(self, values: Sequence[float]) -> float:
        """The slope of log value over log size, by least squares over the upper half of the sizes."""
        upper = slice(min(len(self.sizes) // 2, len(self.sizes) - 2), None)
        x, y = ([math.log(value) for value in part[upper]] for part in (self.sizes, values))
        return statistics.linear_regression(x, y).slope

    def told(self) -> dict[str, Any]:
        """What is written down."""
        operations = self.exponent(self.flops) if self.flops else None
        return self._asdict() | {"exponent": self.exponent(self.seconds), "operations": operations}


def typical(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median seconds of `work`, after one run that warms up."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def matrix_rate() -> float:
    """FLOP/s of a product of two matrices of 1024 x 1024, float32, one thread: the limit of a step."""
    a, b = torch.randn(2, 1024, 1024)
    return 2 * 1024**3 / typical(lambda: a @ b, 11)


def platform_rate() -> float:
    """Loops per second of what the platform's work is made of: rows into SQLite and out, JSON and dictionaries."""

    def work() -> None:
        database = sqlite3.connect(":memory:")
        database.execute("create table t (k text primary key, v text)")
        rows = [(f"{i:016x}", json.dumps({"step": i, "metrics": {"loss": 1 / (i + 1)}})) for i in range(5000)]
        database.executemany("insert into t values (?, ?)", rows)
        assert len({k: json.loads(v) for k, v in database.execute("select k, v from t order by v")}) == 5000

    return 1 / typical(work, 11)


def changed(spec: RunSpec, section: str, **values: object) -> RunSpec:
    """The spec with other values in a section."""
    return spec.model_copy(update={section: getattr(spec, section).model_copy(update=values)})


def fashion() -> RunSpec:
    """A run of table 4 at the profile `fashion`."""
    return load(ROOT / "experiments" / "table4.yaml", "fashion").variants[0].runs[0]


def step(spec: RunSpec, images: int, ranks: Ranks = ALONE) -> Callable[[], None]:
    """Everything of a training step of so many images, shared by the ranks, but the optimizer's own update."""
    torch.manual_seed(0)
    codes_in_all, classes = spec.tokenizer.codebook_size, spec.data.num_classes
    terms = st_ar(spec.selfguided, spec.contrastive_layer)
    objective = Objective(GPT(spec.model, codes_in_all, classes, spec.grid), terms)
    codes = torch.randint(codes_in_all, (images, spec.selfguided.num_views, spec.sequence_length))
    labels, dropped = torch.randint(classes, (images,)), ClassDropout(classes)
    batch = draw_batch(terms, codes, labels, spec.selfguided.student_views, dropped, torch.Generator(), False)
    rows = ranks.share(images)
    learner = parallelize(objective, "ddp", ranks)

    def run() -> None:
        targets = objective.targets(batch, rows, rows.stop - rows.start, ranks.gather)
        objective.losses(batch, targets, rows, learner)["loss"].backward()
        objective.zero_grad()
        objective.update_teacher(0)

    return run


def flops_of_step(spec: RunSpec, images: int) -> float:
    """Operations of a step of so many images."""
    return train_flops(spec) / (spec.optim.steps * spec.optim.batch_size) * images


def training() -> Iterator[Curve]:
    """A step against the images in it, codes of an image, layers, and views."""
    spec = fashion()
    kinds: dict[str, tuple[Sequence[int], Callable[[int], tuple[RunSpec, int]]]] = {
        "images": ((6, 12, 24, 48, 96), lambda n: (spec, n)),
        "codes of an image": (
            (49, 100, 256, 529, 1024),  # four pixels to a code's side
            lambda n: (changed(spec, "data", image_size=4 * math.isqrt(n)), 8),
        ),
        "layers": ((2, 4, 8, 16, 32), lambda n: (changed(spec, "model", n_layer=n), IMAGES)),
        "views": ((2, 3, 4, 6, 8), lambda n: (changed(spec, "selfguided", num_views=n, student_views=n), IMAGES)),
    }
    for name, (sizes, of) in kinds.items():
        made = [of(size) for size in sizes]
        seconds = [typical(step(*one)) for one in made]
        yield Curve(f"a step against {name}", list(sizes), seconds, "matrix", [flops_of_step(s, n) for s, n in made])


def ledger() -> Iterator[Curve]:
    """Entering jobs, counting them, and the moves of one job, against the jobs in the ledger."""
    sizes = [1_000, 10_000, 100_000]
    entering, counting, moving = [], [], []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            known = open_ledger(Home(Path(folder)))
            new = [NewJob(f"{i:016x}", "train", f"row {i} · seed 0", 1e9) for i in range(size)]
            began = time.perf_counter()
            known.jobs.add(new)
            entering.append(time.perf_counter() - began)
            counting.append(typical(known.jobs.counts))
            me = known.schedulers.enter("local")
            keys = iter(one.key for one in new)

            def one_job(known: Any = known, keys: Iterator[str] = keys, me: str = me.id) -> None:
                [job] = known.jobs.of([next(keys)]).values()
                running = known.jobs.claim(job, me, "new", Allocation("here", 1), (2, {}))
                assert running is not None and known.jobs.move(running, DONE, FINISHED, "done")

            moving.append(typical(one_job, 21))
    for name, seconds in (("entering jobs", entering), ("counting jobs", counting), ("one job's moves", moving)):
        yield Curve(f"{name} against the ledger's jobs", sizes, seconds, "platform")


def report() -> Iterator[Curve]:
    """A whole `star-exp report` against the runs of its table."""
    sizes, seconds = [100, 1_000, 10_000], []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            home, file = Home(folder / "home"), reports.study(folder, size // 10)
            home.path.mkdir()
            reports.fill(home, file)
            command = [sys.executable, "-m", "star.cli", "report", str(file)]
            seconds.append(reports.timed(*command, "--home", str(home.path), "--out", str(folder / "out")))
    yield Curve("a report against its runs", sizes, seconds, "platform")


def ranks() -> Iterator[Curve]:
    """A step of 32 images against the ranks (gloo) that share it; there are as many processors as there are."""
    sizes, seconds = [1, 2, 4], []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            told = Path(name) / "seconds"
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
            command = [*launcher, "-m", "tests.benchmarks.step_on_ranks", str(told)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment)
            seconds.append(float(told.read_text()))
    yield Curve("a step against ranks that share it", sizes, seconds, "matrix")


CURVES: dict[str, Callable[[], Iterator[Curve]]] = {
    "training": training,
    "ranks": ranks,
    "ledger": ledger,
    "report": report,
}


def measured(only: Sequence[str] = ()) -> dict[str, Any]:
    """All curves, with the two yardsticks of this run. As in a job: one computing thread, and freed memory is kept."""
    keep_freed_memory()
    repeatable(1)
    rates = {"matrix": matrix_rate(), "platform": platform_rate()}
    curves = [curve for name, of in CURVES.items() if not only or name in only for curve in of()]
    return {
        "rates": rates,
        "torch": torch.__version__,
        "curves": {curve.name: curve.told() for curve in curves},
    }


def markdown(found: dict[str, Any]) -> str:
    """The curves as a table."""
    rates = found["rates"]
    lines = [
        f"Matrix products: {rates['matrix'] / 1e9:.0f} GFLOP/s on one thread. Torch {found['torch']}.",
        "",
        "| what | sizes | seconds | share of the matrix rate | exponent | of its operations |",
        "|---|---|---|---|---:|---:|",
    ]
    for name, curve in found["curves"].items():
        pairs = zip(curve["flops"] or (), curve["seconds"], strict=False)
        shares = ", ".join(f"{flops / taken / rates['matrix']:.0%}" for flops, taken in pairs)
        operations = "" if curve["operations"] is None else f"{curve['operations']:.2f}"
        sizes = ", ".join(f"{size:,}".replace(",", " ") for size in curve["sizes"])
        seconds = ", ".join(f"{taken:.3g}" for taken in curve["seconds"])
        lines.append(f"| {name} | {sizes} | {seconds} | {shares} | {curve['exponent']:.2f} | {operations} |")
    return "\n".join(lines) + "\n"


def slower(found: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The points that take SLOWER times as long as before, each run in units of its own yardstick."""
    told = []
    for name, curve in found["curves"].items():
        known = before["curves"].get(name)
        if known is None:
            continue
        rate = found["rates"][curve["yardstick"]] / before["rates"][curve["yardstick"]]
        was = dict(zip(known["sizes"], known["seconds"], strict=True))
        for size, seconds in zip(curve["sizes"], curve["seconds"], strict=True):
            if size in was and seconds * rate > SLOWER * was[size]:
                told.append(f"{name}, {size}: {seconds * rate / was[size]:.2f} times as long as before")
    return told


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", nargs="*", choices=CURVES, default=[])
    options = parser.parse_args()
    found = measured(options.only)
    print(markdown(found))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
        (options.out / "growth.md").write_text(markdown(found))
    if options.against:
        told = slower(found, json.loads(options.against.read_text()))
        print("\n".join(told) or "no point is slower than before")
        sys.exit(bool(told))


if __name__ == "__main__":
    main()

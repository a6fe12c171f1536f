"""A home as a large group would have it: thousands of runs, most done, many jobs running, waiting and failed.

    python -m tests.large_home FOLDER --runs 10000 --live 1000

Specs, keys and plans are real. That the work was done is written down: states and history in the ledger, results and progress in the
jobs' folders, so that whatever reads a home reads this one as any other.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import insert, update

from star.ledger.states import CANCELLED, DONE, FAILED, QUEUED, RUNNING, STARTED, Job, SchedulerInfo
from star.ledger.store import Ledger, open_ledger
from star.ledger.tables import history, jobs
from star.rundir import Home
from star.scheduler.plan import make_plan
from star.scheduler.registration import register
from star.spec.load import load
from tests.helpers import DATA, ROOT

EXPERIMENT = """
experiment: {name}
title: {name}, {rows} rows of {seeds} seeds
profile: tiny
axes:
  selfguided.mask_ratio: {ratios}
seeds: {seed_list}
table:
  caption: {name}
  columns:
    - {{title: Mask ratio, spec: selfguided.mask_ratio}}
    - {{title: FD, metric: "score/{{extractor}}/frechet_distance", better: lower}}
    - {{title: Probe %, metric: probe/accuracy, better: higher, scale: 100}}
"""
SEEDS, PER_EXPERIMENT = 5, 500
CHUNK = 2000


def make(path: Path, runs: int = 10_000, live: int = 1_000) -> SchedulerInfo:
    """Write the home; returns the scheduler that owns its running jobs: this process.

    Args:
        live: jobs that run or wait for one that runs; one in fifty of the others has failed or was cancelled.
    """
    home = Home(path)
    (path / "data").mkdir(parents=True)
    (path / "data" / "fashion-mnist").symlink_to(DATA)
    (path / "profiles").symlink_to(ROOT / "tests" / "profiles")
    ledger = open_ledger(home)
    for number in range(-(-runs // PER_EXPERIMENT)):
        rows = min(PER_EXPERIMENT, runs - number * PER_EXPERIMENT) // SEEDS
        ratios = [round(0.05 + 0.0004 * (number * (PER_EXPERIMENT // SEEDS) + i), 4) for i in range(rows)]
        values = {"rows": rows, "seeds": SEEDS, "ratios": ratios, "seed_list": list(range(SEEDS))}
        file = path / f"sweep-{number:02}.yaml"
        file.write_text(EXPERIMENT.format(name=f"sweep-{number:02}", **values))
        register(make_plan(load(file), home, ledger), home, ledger, lambda text: None)
    me = ledger.schedulers.enter("local")
    _work_through(home, ledger, me, live)
    return me


def _work_through(home: Home, ledger: Ledger, me: SchedulerInfo, live: int) -> None:
    draws, now = random.Random(0), time.time()
    known = list(ledger.jobs.of().values())
    open_runs = [job for job in known if job.stage == "train"][-live:]
    alive = {job.key for job in open_runs}
    labels = {job.label for job in open_runs}
    changed: list[tuple[Job, str, dict[str, object]]] = []
    for i, job in enumerate(known):
        begun = now - 86400 + 80000 * i / len(known)
        ended = {"attempt": 1, "started": begun, "finished": begun + draws.uniform(20, 90), "why": "finished"}
        if job.key in alive:
            held = {"owner": me.id, "host": me.host, "slots": 1, "started": now - draws.uniform(5, 900)}
            changed.append((job, RUNNING, {"attempt": 1, "why": STARTED, **held}))
        elif job.label in labels and job.stage not in ("dataset", "tokenizer", "encode", "reference"):
            continue
        elif job.stage == "probe" and draws.random() < 0.02:
            failure = {"error_class": "DivergedError", "error": "after step 5 loss is nan", "why": "nan"}
            changed.append((job, draws.choice((FAILED, CANCELLED)), ended | failure))
        else:
            changed.append((job, DONE, ended))
    _write_states(ledger, changed)
    for job, state, _ in changed:
        folder = home.job(job.stage, job.key)
        if state == DONE:
            folder.out.mkdir(parents=True)
            numbers = dict(_numbers(job.stage, draws))
            result = {"metrics": numbers, "provenance": {"code": "0.1.0+test"}, "seconds": 30.0, "finished": now}
            folder.result.write_text(json.dumps(result))
        elif state == RUNNING:
            folder.path.mkdir(parents=True)
            done = draws.randint(1, 30)
            folder.progress.write_text(json.dumps({"done": done, "total": 30, "rate": 0.1}))
            lines = [{"time": now, "step": step, "metrics": {"loss": 5 / step}} for step in range(1, done + 1)]
            folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
            folder.log.write_text("== attempt 1\nat work\n")


def _numbers(stage: str, draws: random.Random) -> Iterator[tuple[str, float]]:
    if stage == "train":
        yield "val_nll", draws.gauss(3.2, 0.1)
    elif stage == "score":
        yield "efficientnet-lite0/frechet_distance", draws.gauss(1400, 60)
    elif stage == "probe":
        yield "accuracy", draws.gauss(0.68, 0.01)


def _write_states(ledger: Ledger, changed: list[tuple[Job, str, dict[str, object]]]) -> None:
    """In bulk: what a scheduler would have written move by move."""
    for first in range(0, len(changed), CHUNK):
        part = changed[first : first + CHUNK]
        with ledger.database.transaction() as connection:
            for job, state, values in part:
                connection.execute(update(jobs).where(jobs.c.key == job.key).values(state=state, **values))
            rows = [
                {"job": job.key, "attempt": 1, "before": QUEUED, "after": state, "reason": state, "why": values["why"]}
                for job, state, values in part
            ]
            connection.execute(insert(history), [row | {"time": time.time()} for row in rows])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--live", type=int, default=1_000)
    options = parser.parse_args()
    began = time.perf_counter()
    make(options.folder, options.runs, options.live)
    print(f"{options.folder}: {options.runs} runs, {options.live} live jobs, in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

"""What a search costs beside its trials: asking and telling with 1,000 finished trials, and the plan of a new one.

    python -m tests.benchmarks.ask_tell

Each number is the median of 20 trials; the study is a real one in SQLite, told random values. Beside it, in the same run, the same
with 10 finished trials.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from statistics import median

from optuna.trial import TrialState, create_trial

from star.ledger.store import open_ledger
from star.rundir import Home
from star.search.segments import TrialSegments
from star.search.study import Study
from star.spec.load_search import load_search
from tests.search.lab import SearchLab


def measured(finished: int, folder: Path, rounds: int = 20) -> dict[str, float]:
    """Seconds of each step with so many finished trials."""
    lab, draws = SearchLab(folder), random.Random(0)
    search, home = load_search(lab.file), Home(folder)
    study = Study(search, home)
    points = [{name: draws.uniform(p.low, p.high) for name, p in search.spec.space.items()} for _ in range(finished)]
    study.optuna.add_trials(
        create_trial(state=TrialState.COMPLETE, params=point, distributions=study.distributions, value=draws.random())
        for point in points
    )
    began = time.perf_counter()
    study = Study(search, home)
    len(study.trials())
    times: dict[str, list[float]] = {"open": [time.perf_counter() - began], "ask": [], "plan": [], "tell": []}
    segments = TrialSegments(home, open_ledger(home), search.name, lambda plan: None)
    for _ in range(rounds):
        began = time.perf_counter()
        trial, point = study.ask()
        times["ask"].append(time.perf_counter() - began)
        began = time.perf_counter()
        run = search.run(point)
        plan = segments.plan(search.experiment([(f"trial {trial.number}", run)], search.spec.seeds, search.targets))
        segments.begin(plan)
        times["plan"].append(time.perf_counter() - began)
        began = time.perf_counter()
        study.tell(trial.number, [draws.random()], TrialState.COMPLETE, hours=0.1)
        times["tell"].append(time.perf_counter() - began)
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    """Print both."""
    for finished in (10, 1000):
        with tempfile.TemporaryDirectory() as folder:
            found = measured(finished, Path(folder))
            shown = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in found.items())
            total = sum(seconds for name, seconds in found.items() if name != "open")
            print(f"{finished} finished trials: {shown}; ask, plan and tell {total:.3f} s")


if __name__ == "__main__":
    main()

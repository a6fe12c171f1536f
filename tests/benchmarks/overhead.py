"""What a scheduler adds to its jobs: this one, Hydra's joblib launcher and Ray Tune, side by side.

    python -m venv peers && peers/bin/pip install hydra-core hydra-joblib-launcher "ray[tune]"
    python -m tests.benchmarks.overhead --peers peers/bin/python

Jobs that sleep 0 s and 1 s, two at a time, each in a fresh process. The overhead of a job is the wall time, times two slots,
over the jobs, less the sleep and less what the process itself takes to start and end, measured alone beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from star.ledger.states import DONE
from star.rundir import read_json
from star.scheduler.local import LocalExecutor
from tests.helpers import ROOT
from tests.scheduler.lab import MANY, WORKER, Lab

SLOTS = 2
SLEEP = "import sys, time; time.sleep(float(sys.argv[1]))"
HYDRA = """
import subprocess, sys
import hydra
from omegaconf import DictConfig

@hydra.main(version_base=None, config_path=None)
def main(config: DictConfig) -> None:
    subprocess.run([sys.executable, "-c", {sleep!r}, str(config.seconds)], check=True)

main()
"""
TUNE = """
import subprocess, sys, time
import ray
from ray import tune

def job(config):
    subprocess.run([sys.executable, "-c", {sleep!r}, str(config["seconds"])], check=True)

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")
began = time.time()
space = {{"i": tune.grid_search(list(range({jobs}))), "seconds": {seconds}}}
config = tune.TuneConfig(max_concurrent_trials=2)
tune.Tuner(tune.with_resources(job, {{"cpu": 1}}), param_space=space, tune_config=config,
           run_config=tune.RunConfig(storage_path={folder!r}, verbose=0)).fit()
print("WALL", time.time() - began)
"""


def alone(command: list[str], count: int = 20) -> float:
    """Seconds that one process takes when two run at a time."""
    with ThreadPoolExecutor(SLOTS) as pool:
        began = time.perf_counter()
        list(pool.map(lambda _: subprocess.run(command, check=True, capture_output=True), range(count)))
        return (time.perf_counter() - began) * SLOTS / count


def ours(folder: Path, jobs: int, seconds: float) -> tuple[float, float, float]:
    """(wall, a worker's process alone, median gap between a job's end and the next one's start), all in seconds."""
    os.environ |= {"PYTHONPATH": str(ROOT), "LIGHT_STEPS": "1", "LIGHT_SECONDS": str(seconds)}
    lab = Lab(folder / "home")
    ratios = ", ".join(f"{0.001 * i:.3f}" for i in range(1, (jobs - 4) // 4 + 1))
    plan = lab.plan(lab.file(("[0.1, 0.2, 0.3, 0.4]", f"[{ratios}]")))
    assert len(plan.to_do) == jobs, len(plan.to_do)
    lab.register(plan)
    scheduler = lab.scheduler(LocalExecutor(SLOTS, gpus=list, worker=WORKER))
    began = time.perf_counter()
    outcome = scheduler.run(plan, lambda states: None)
    wall = time.perf_counter() - began
    assert outcome.done == jobs
    found = lab.ledger.jobs.of()
    assert {job.state for job in found.values()} == {DONE}
    ends = sorted(read_json(lab.home.job(job.stage, key).result)["finished"] for key, job in found.items())
    starts = sorted(job.started or 0.0 for job in found.values())[4 + SLOTS :]  # of the first four some wait for others
    gaps = [start - max(end for end in ends if end <= start) for start in starts]
    sample = next(iter(lab.home.jobs.glob("train-*")))
    worker = [sys.executable, "-m", WORKER, str(sample)]  # done already: it starts, looks, and ends
    return wall, alone(worker), statistics.median(gaps)


def hydra(python: str, folder: Path, jobs: int, seconds: float) -> float:
    """Wall seconds, less those of Hydra's own start."""
    script = folder / "app.py"
    script.write_text(HYDRA.format(sleep=SLEEP))
    options = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={SLOTS}", f"hydra.sweep.dir={folder}/sweep"]

    def sweep(count: int, sleep: float) -> float:
        began = time.perf_counter()
        values = f"+i=range(0,{count})"
        subprocess.run(
            [python, str(script), "-m", f"+seconds={sleep}", values, *options],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        return time.perf_counter() - began

    return sweep(jobs + SLOTS, seconds) - sweep(SLOTS, seconds)


def tune(python: str, folder: Path, jobs: int, seconds: float) -> float:
    """Wall seconds of `fit`, once Ray is up."""
    script = folder / "tune.py"
    script.write_text(TUNE.format(sleep=SLEEP, jobs=jobs, seconds=seconds, folder=str(folder / "results")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([python, str(script)], check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.rsplit("WALL", 1)[1])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="an interpreter that has hydra-core, hydra-joblib-launcher and ray[tune]")
    parser.add_argument("--jobs", type=int, default=200)
    options = parser.parse_args()
    assert MANY.exists()
    print("| scheduler | jobs of | wall s | per job, of one slot, ms | its process alone, ms | overhead per job, ms |")
    print("|---|---:|---:|---:|---:|---:|")
    gaps = []
    for seconds in (0.0, 1.0):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            wall, process, gap = ours(folder, options.jobs, seconds)
            gaps.append(gap)
            rows = [("star", wall, process)]
            if options.peers:
                plain = alone([options.peers, "-c", SLEEP, "0"])
                rows.append(("Hydra, joblib", hydra(options.peers, folder, options.jobs, seconds), plain))
                rows.append(("Ray Tune", tune(options.peers, folder, options.jobs, seconds), plain))
        for label, wall, process in rows:
            each = wall * SLOTS / options.jobs - seconds
            figures = (f"{seconds:g} s", f"{wall:.1f}", *(f"{ms * 1e3:.0f}" for ms in (each, process, each - process)))
            print(f"| {label} | {' | '.join(figures)} |", flush=True)
    for seconds, gap in zip((0, 1), gaps, strict=True):
        print(f"\nstar, jobs of {seconds} s: median gap between a job's end and the next start {gap * 1e3:.1f} ms")


if __name__ == "__main__":
    main()

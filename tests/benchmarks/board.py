"""The board on a home of 10,000 runs and 1,000 live jobs, beside MLflow's and optuna-dashboard's pages on as many.

    python -m tests.benchmarks.board [--runs 10000 --live 1000]

Ours: the time from the request to the last byte of a page that nobody has asked for since something changed, the bytes of a first visit
in a real browser, the time from a change in the ledger to its sight on the screen, and what 50 viewers cost a scheduler.
Theirs: the first answer with data that their own page waits for, and the bytes of its first visit. All on loopback, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from star.ledger.states import AGAIN, QUEUED, RUNNING
from star.ledger.store import Ledger, open_ledger
from star.rundir import Home
from tests import large_home
from tests.board.conftest import CHROMIUM, FLAGS
from tests.board.server import BoardServer
from tests.helpers import empty_tracking_store
from tests.services import free_port, until

REPEATS = 7
VIEWERS = 50


def timed(work: Callable[[], Any]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def change(ledger: Ledger) -> str:
    """Some running job is queued again; returns its key."""
    job = ledger.jobs.of_state(RUNNING, limit=1)[0]
    assert ledger.jobs.move(job, QUEUED, AGAIN, "asked for again")
    return job.key


def pages(board: BoardServer, ledger: Ledger, run: str, key: str) -> Iterator[tuple[str, float, float, int]]:
    """(page, median and worst milliseconds after a change, bytes packed)."""
    for name, path in {
        "overview": "/",
        "an experiment of 500 runs": "/experiments/sweep-00/tiny",
        "all runs": "/runs",
        "queue": "/queue",
        "failures": "/failures",
        "a run": f"/runs/{run}",
        "a job": f"/jobs/{key}",
    }.items():
        found, size = [], 0
        for _ in range(REPEATS):
            change(ledger)
            time.sleep(0.35)  # longer than the time between two looks
            began = time.perf_counter()
            answer = board.ask(path, headers={"Accept-Encoding": "gzip"})
            found.append((time.perf_counter() - began) * 1e3)
            assert answer.status == 200
            size = len(answer.body)
        yield name, statistics.median(found), max(found), size


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def first_visit(chromium: Any, url: str, ready: str) -> tuple[float, int]:
    """(milliseconds until `ready` is on the page, bytes over the wire) of a browser that was never there."""
    context = chromium.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    began = time.perf_counter()
    page.goto(url)
    page.wait_for_selector(ready, timeout=120_000)
    took = (time.perf_counter() - began) * 1e3
    page.wait_for_timeout(500)
    context.close()
    return took, int(sum(sizes))


def on_screen(chromium: Any, board: BoardServer, ledger: Ledger) -> list[float]:
    """Milliseconds from a change in the ledger to its sight on a job's page, some times."""
    page, found = chromium.new_page(), []
    for _ in range(REPEATS):
        job = ledger.jobs.of_state(RUNNING)[-1]  # not the one that is changed beside it
        page.goto(f"{board.url}/jobs/{job.key}")
        page.wait_for_timeout(1500)
        began = time.perf_counter()
        assert ledger.jobs.move(job, QUEUED, AGAIN, "asked for again")
        while page.evaluate("document.querySelector('h1 .state').textContent") != "queued":
            time.sleep(0.005)
        found.append((time.perf_counter() - began) * 1e3)
    page.close()
    return found


@contextmanager
def viewers(board: BoardServer, count: int) -> Iterator[None]:
    """As many readers as that, each with a stream, who fetch the page as a browser does when they hear of a change."""
    code = (
        "import sys, threading, time, http.client\n"
        "port, count = int(sys.argv[1]), int(sys.argv[2])\n"
        "def read():\n"
        "    c = http.client.HTTPConnection('127.0.0.1', port); c.request('GET', '/events'); r = c.getresponse(); have = ''; last = 0\n"
        "    p = http.client.HTTPConnection('127.0.0.1', port)\n"
        "    while True:\n"
        "        if not r.readline().startswith(b'data: '): continue\n"
        "        time.sleep(max(0, last + 1 - time.time())); last = time.time()\n"
        "        p.request('GET', '/', headers={'Accept-Encoding': 'gzip', 'X-Have': have}); a = p.getresponse(); a.read()\n"
        "        have = a.headers.get('X-Digest') or have\n"
        "for _ in range(count): threading.Thread(target=read, daemon=True).start()\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(board.port), str(count)], stdin=subprocess.PIPE)
    time.sleep(3)
    yield
    assert process.poll() is None, "the viewers have ended"
    process.terminate()
    process.wait()


def scheduler_seconds(folder: Path) -> float:
    """A scheduler's 60 jobs of no duration, two at a time, in a home of its own."""
    from star.scheduler.local import LocalExecutor
    from tests.scheduler.lab import WORKER, Lab

    os.environ |= {"LIGHT_STEPS": "1", "LIGHT_SECONDS": "0"}
    lab = Lab(folder)
    ratios = ", ".join(f"{0.01 * i:.2f}" for i in range(1, 15))
    plan = lab.plan(lab.file(("[0.1, 0.2, 0.3, 0.4]", f"[{ratios}]")))
    lab.register(plan)
    began = time.perf_counter()
    outcome = lab.scheduler(LocalExecutor(2, gpus=list, worker=WORKER)).run(plan, lambda states: None)
    assert outcome.done == len(plan.to_do)
    return time.perf_counter() - began


def mlflow_store(path: Path, runs: int) -> None:
    """MLflow's own database with as many runs, each with eight metrics, ten parameters and five tags."""
    path.write_bytes(empty_tracking_store().read_bytes())
    connection = sqlite3.connect(path)
    now = int(time.time() * 1000)
    columns = "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time"
    columns += ", source_version, lifecycle_stage, artifact_uri, experiment_id"
    rows = [
        (f"{i:032x}", f"run {i}", "LOCAL", "", "", "me", "FINISHED", now, now, "", "active", f"/a/{i}", 0)
        for i in range(runs)
    ]
    connection.executemany(f"insert into runs ({columns}) values ({','.join('?' * 13)})", rows)
    ids = [row[0] for row in rows]
    metrics = [(f"m{j}", i / (j + 1), now, 0, 0, run) for i, run in enumerate(ids) for j in range(8)]
    connection.executemany(
        "insert into latest_metrics (key, value, timestamp, step, is_nan, run_uuid) values (?,?,?,?,?,?)", metrics
    )
    connection.executemany(
        "insert into params (key, value, run_uuid) values (?,?,?)",
        [(f"p{j}", "1", run) for run in ids for j in range(10)],
    )
    connection.executemany(
        "insert into tags (key, value, run_uuid) values (?,?,?)", [(f"t{j}", "x", run) for run in ids for j in range(5)]
    )
    connection.commit()
    connection.close()


@contextmanager
def mlflow_server(store: Path) -> Iterator[str]:
    """MLflow's server on it."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{store}",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with _server([*command, "--workers", "1"], f"http://127.0.0.1:{port}", store.parent) as url:
        yield url


@contextmanager
def optuna_server(store: Path) -> Iterator[str]:
    """optuna-dashboard on a database of trials."""
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "optuna-dashboard"),
        f"sqlite:///{store}",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with _server(command, f"http://127.0.0.1:{port}", store.parent) as url:
        yield url


@contextmanager
def _server(command: list[str], url: str, folder: Path) -> Iterator[str]:
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:

        def answers() -> bool:
            try:
                return bool(urllib.request.urlopen(url, timeout=5).status == 200)
            except OSError:
                return False

        until(answers, url)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def optuna_store(path: Path, trials: int) -> None:
    """A study of as many trials of three parameters."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="large")
    space = {name: optuna.distributions.FloatDistribution(0, 1) for name in "abc"}
    made = [
        optuna.trial.create_trial(params=dict.fromkeys("abc", i / trials), distributions=space, value=float(i % 97))
        for i in range(trials)
    ]
    study.add_trials(made)


def line(title: str, found: list[float], took: float, size: int) -> str:
    """Of the table."""
    return f"| {title} | {statistics.median(found):.0f} | {max(found):.0f} | {took:.0f} | {size / 1e3:,.0f} |"


def post(url: str, content: dict[str, object]) -> bytes:
    """An answer to JSON."""
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return bytes(answer.read())


def theirs(chromium: Any, folder: Path, runs: int) -> Iterator[str]:
    """Lines of the table."""
    store = folder / "mlflow.sqlite"
    mlflow_store(store, runs)
    with mlflow_server(store) as url:
        ask = lambda: post(f"{url}/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"], "max_results": 100})  # noqa: E731
        ask()
        found = [timed(ask) for _ in range(REPEATS)]
        took, size = first_visit(chromium, f"{url}/#/experiments/0/runs", "text=/^run \\d+$/")
        yield line("MLflow, first 100 runs (its page's own question)", found, took, size)
    store = folder / "optuna.sqlite"
    optuna_store(store, runs)
    with optuna_server(store) as url:
        study = json.loads(urllib.request.urlopen(f"{url}/api/studies", timeout=60).read())["study_summaries"][0][
            "study_id"
        ]
        ask_study = lambda: urllib.request.urlopen(f"{url}/api/studies/{study}?after=0", timeout=300).read()  # noqa: E731
        ask_study()
        found = [timed(ask_study) for _ in range(3)]
        took, size = first_visit(chromium, f"{url}/dashboard/studies/{study}", "text=Hyperparameter Importance")
        yield line("optuna-dashboard, a study of as many trials", found, took, size)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--live", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, browser() as chromium:
        folder = Path(name)
        large_home.make(folder / "home", options.runs, options.live)
        ledger = open_ledger(Home(folder / "home"))
        began = time.perf_counter()
        board = BoardServer(folder / "home")
        board.ask("/")
        start = time.perf_counter() - began
        try:
            run = next(iter(ledger.runs.experiments("sweep-00"))).run
            key = ledger.runs.of([run])[run].stages["train"]
            time.sleep(5)
            print(
                f"{options.runs:,} runs, {options.live:,} live jobs; from the command to the first page {start:.1f} s\n"
            )
            print(
                "| page | server, median ms | worst ms | first visit to sight, ms | kB over the wire |\n|---|---:|---:|---:|---:|"
            )
            took, size = first_visit(chromium, board.url, "h2")
            for title, median, worst, packed in pages(board, ledger, run, key):
                sight = (f"{took:.0f}", f"{size / 1e3:,.0f}") if title == "overview" else ("", f"({packed / 1e3:.0f})")
                print(f"| board, {title} | {median:.0f} | {worst:.0f} | {' | '.join(sight)} |", flush=True)
            for row in theirs(chromium, folder, options.runs):
                print(row, flush=True)
            seen = on_screen(chromium, board, ledger)
            print(
                f"\nfrom a change in the ledger to the screen: median {statistics.median(seen):.0f} ms, worst {max(seen):.0f} ms"
            )
            alone = [scheduler_seconds(folder / f"alone-{i}") for i in range(3)]
            stop = threading.Event()

            def changes() -> None:
                while not stop.wait(0.5):
                    change(ledger)

            thread = threading.Thread(target=changes)
            thread.start()
            with viewers(board, VIEWERS):
                beside = [scheduler_seconds(folder / f"beside-{i}") for i in range(3)]
                late = on_screen(chromium, board, ledger)
            stop.set()
            thread.join()
            quiet, busy = statistics.median(alone), statistics.median(beside)
            print(
                f"a scheduler's 60 jobs of no duration: {quiet:.2f} s alone, {busy:.2f} s beside {VIEWERS} viewers of a board "
                "that changes twice a second"
            )
            print(f"the screen, meanwhile: median {statistics.median(late):.0f} ms, worst {max(late):.0f} ms")
        finally:
            board.stop()


if __name__ == "__main__":
    main()

"""`status` and `watch` for one experiment and for narrow terminals, `forget`, and what is told to others (STAR_NOTIFY)."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from star.ledger.states import FAILED, Allocation
from star.metric_log import last_loss
from tests.helpers import ROOT, star_exp
from tests.scheduler.lab import Lab, command


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "home")


def on_a_terminal(columns: int, *arguments: str) -> list[str]:
    """What a command prints on a terminal of this width."""
    lead, follow = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns)}
    done = subprocess.Popen(
        [sys.executable, "-m", "star.cli", *arguments], stdout=follow, stderr=follow, env=environment, cwd=ROOT
    )
    os.close(follow)
    parts = []
    while True:
        try:
            part = os.read(lead, 4096)
        except OSError:
            break
        parts.append(part)
        if not part:
            break
    assert done.wait(60) == 0
    return b"".join(parts).decode().replace("\r\n", "\n").splitlines()


def test_status_of_one_experiment_with_times_and_results(lab: Lab) -> None:
    lab.run()
    lab.register(lab.plan(name="other"))
    whole, one = star_exp("status", home=lab.path).stdout, star_exp("status", "many", home=lab.path).stdout
    assert "other · tiny" in whole and "many · tiny" in whole and "other" not in one
    line = next(line for line in one.splitlines() if "mask_ratio=0.1" in line)
    assert " s ago" in line and "val_nll 0.5" in line and "probe 0.5" in line
    found = json.loads(star_exp("status", "many", "--json", home=lab.path).stdout)
    assert {row["experiment"] for row in found["rows"]} == {"many"} and found["rows"][0]["results"]["probe"] == 0.5
    assert abs(found["rows"][0]["changed"] - time.time()) < 100
    wrong = star_exp("status", "manny", home=lab.path)
    assert wrong.returncode == 2 and "there are: many, other" in wrong.stderr


def test_status_fits_a_narrow_terminal_and_loses_nothing(lab: Lab) -> None:
    lab.run()
    wide = star_exp("status", home=lab.path).stdout.split()
    for columns in (40, 80):
        lines = on_a_terminal(columns, "status", "--home", str(lab.path))
        assert max(map(len, lines)) <= columns
        told = [word for word in " ".join(lines).split() if not word.isdigit()]
        assert told == [word for word in wide if not word.isdigit()]  # seconds pass meanwhile


def test_a_running_job_tells_how_far_it_is(lab: Lab) -> None:
    plan = lab.plan()
    lab.register(plan)
    job = lab.job(plan, "train")
    assert lab.ledger.jobs.claim(job, "me", "started", Allocation("here", 1)) is not None
    folder = lab.folder(plan, "train")
    folder.path.mkdir(parents=True)
    folder.progress.write_text(json.dumps({"done": 10, "total": 30, "rate": 0.1}))
    lines = [json.dumps({"time": 0, "step": i, "metrics": {"loss": 9 - i / 100}}) for i in range(300)]
    folder.metrics.write_text("\n".join(lines) + '\n{"time": 0, "st')
    text = star_exp("status", home=lab.path).stdout
    line = next(line for line in text.splitlines() if line.startswith("running") and job.key in line)
    assert "10/30  loss 6.010" in line and "3 min left" in line and "  for " in line


def test_the_last_loss(tmp_path: Path, lab: Lab) -> None:
    folder = lab.home.job("train", "k")
    assert last_loss(folder) is None
    folder.path.mkdir(parents=True)
    folder.metrics.write_text(
        '{"time": 0, "step": 1, "metrics": {"loss": 2.5}}\n{"time": 0, "step": 2, "metrics": {"a": 1}}\n'
    )
    assert last_loss(folder) == 2.5
    folder.metrics.write_bytes(b"\xff\n" * 5000)
    assert last_loss(folder) is None


def test_what_is_over_can_be_forgotten(lab: Lab) -> None:
    """Listed no more, also not after `reindex`; nothing is removed, and the same run lists it again at once."""
    lab.run()
    jobs = sorted(path.name for path in lab.home.jobs.iterdir())
    done = star_exp("forget", "many", home=lab.path)
    assert done.returncode == 0 and "forgotten: many (tiny)" in done.stdout
    assert "many" not in star_exp("status", home=lab.path).stdout
    assert star_exp("reindex", home=lab.path).returncode == 0
    assert "many" not in star_exp("status", home=lab.path).stdout
    assert sorted(path.name for path in lab.home.jobs.iterdir()) == jobs
    again = lab.plan()
    assert not again.to_do
    lab.register(again)
    assert "many · tiny: 4 of 4 runs done" in star_exp("status", home=lab.path).stdout
    assert "forgotten" in star_exp("forget", "--over", home=lab.path).stdout


def test_forgetting_refuses_what_is_not_over(lab: Lab) -> None:
    plan = lab.plan()
    lab.register(plan)
    for arguments, says in (
        (["many"], "jobs are queued or run; `star-exp cancel --experiment many` first"),
        (["nobody"], "there is no experiment of that name here; there are: many"),
        ([], "give names of experiments, or --over"),
        (["many", "--over"], "give names of experiments, or --over"),
    ):
        done = star_exp("forget", *arguments, home=lab.path)
        assert done.returncode == 2 and says in done.stderr, done.stderr
    assert star_exp("forget", "--over", home=lab.path).stdout == ""
    assert len(lab.ledger.runs.experiments()) == 4
    # a failure of an experiment that is forgotten is no open matter
    for job in lab.ledger.jobs.of().values():
        running = lab.ledger.jobs.claim(job, "me", "started", Allocation("here", 1))
        assert running is not None
        lab.ledger.jobs.move(running, FAILED, "error", "so", error="a slip", error_class="ValueError")
    assert "a slip" in star_exp("status", home=lab.path).stdout
    assert star_exp("forget", "many", home=lab.path).returncode == 0
    assert "a slip" not in star_exp("status", home=lab.path).stdout


ONE = ("--rows", "mask_ratio=0.1")
"""Of the twenty jobs eight: what is told does not depend on how many there are."""


class Hook:
    """A webhook's receiver."""

    def __init__(self, status: int = 200) -> None:
        self.events: list[dict[str, object]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.events.append(json.loads(body))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{outer.server.server_port}/elsewhere")
                self.end_headers()

            def log_message(self, *args: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/a-secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.server.shutdown()


def test_a_webhook_hears_of_failures_and_of_the_end(lab: Lab, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_NOTIFY", hook.url)
    monkeypatch.setenv("LIGHT_EXIT", "bug")
    plan = lab.plan()
    monkeypatch.setenv("LIGHT_ONLY", plan.runs[0].stages["train"])
    process = command(lab, *ONE)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    kinds = [event["event"] for event in hook.events]
    assert kinds == ["job_failed", "experiment_ended"]
    failed, ended = hook.events
    assert failed["job"] == plan.runs[0].stages["train"] and "ValueError: a slip" in str(failed["text"])
    assert ended["exit_code"] == 1 and ended["failed"] == 1 and ended["experiment"] == "many"
    assert "a-secret" not in said
    for file in [*lab.path.glob("*.sqlite*"), *lab.path.glob("experiments/**/*.*"), *lab.path.glob("jobs/*/job.json")]:
        assert b"a-secret" not in file.read_bytes(), file
    # what had failed before is no news, and what is done now is
    hook.events.clear()
    monkeypatch.delenv("LIGHT_EXIT")
    process = command(lab, *ONE)
    process.communicate(timeout=120)
    assert [(event["event"], event["exit_code"]) for event in hook.events] == [("experiment_ended", 0)]


def test_a_command_gets_the_event(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got = tmp_path / "got"
    monkeypatch.setenv("STAR_NOTIFY", f"sh -c 'cat > {got}; test -z \"$STAR_NOTIFY\"'")
    assert star_exp("notify").stdout == "delivered\n"
    assert json.loads(got.read_text())["event"] == "test"


def test_a_receiver_that_fails_ends_no_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for target, says in (
        ("http://127.0.0.1:9/secret", "127.0.0.1 did not take it"),
        ("false", "its command ended with exit code 1"),
    ):
        monkeypatch.setenv("STAR_NOTIFY", target)
        process = command(lab, *ONE)
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0 and f"STAR_NOTIFY: {says}" in said and "secret" not in said, said


@pytest.mark.parametrize(
    "target",
    ["https://hooks.example.org/services/SECRET x", "http://127.0.0.1:nan/SECRET", "http://127.0.0.1/SECRET\u00fc"],
)
def test_an_address_that_cannot_be_used_is_not_printed(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setenv("STAR_NOTIFY", target)
    done = star_exp("notify")
    assert done.returncode == 2 and "no address that can be used" in done.stderr and "SECRET" not in done.stderr


def test_a_search_refuses_such_an_address_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAR_NOTIFY", "http://127.0.0.1:nan/SECRET")
    done = star_exp("search", "experiments/search_alpha_beta_r.yaml", home=tmp_path / "home")
    assert done.returncode == 2 and "no address that can be used" in done.stderr
    assert not (tmp_path / "home").exists()

"""Ray as a cluster has it: two nodes, a token, jobs that spread over machines or wait for room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from star.errors import ExecutorError
from star.ledger.states import CANCELLED, DONE
from star.rundir import Home, read_json
from star.scheduler import ray_token
from star.scheduler.executor import Start, Watched
from star.scheduler.job_actions import cancel
from tests.helpers import ROOT, job_in, tiny
from tests.scheduler.lab import WORKER, Lab
from tests.services import RayCluster, until


@pytest.fixture
def lab(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Lab(tmp_path / "home")


def test_a_cluster_without_token_authentication_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ExecutorError, match="RAY_AUTH_MODE is not `token`"):
        ray_token.prepare()


def test_two_homes_on_one_cluster_have_names_of_their_own(ray_cluster: RayCluster, tmp_path: Path) -> None:
    """The same experiment has the same keys everywhere; and a home that is mounted elsewhere is the same home."""
    from star.scheduler.ray import _name_of, _named

    homes = [Home(tmp_path / name) for name in ("one", "two")]
    names = [_named("star-train-abc-1", home.job("train", "abc")) for home in homes]
    assert len(set(names)) == 2
    homes[0].path.rename(tmp_path / "moved")
    moved = Home(tmp_path / "moved").job("train", "abc")
    assert _named("star-train-abc-1", moved) == names[0]
    assert _name_of(Watched(moved, "star-train-abc-1", None, None)) == names[0]
    assert _name_of(Watched(moved, "star-train-abc-1", {"actor": "former"}, None)) == "former"


def test_a_wrong_token_reaches_nothing(ray_cluster: RayCluster, lab: Lab) -> None:
    environment = os.environ | ray_cluster.environment | {"RAY_AUTH_TOKEN": "0" * 64}
    code = "import ray; ray.init(logging_level='ERROR'); print('in')"
    with pytest.raises(subprocess.TimeoutExpired):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=5)
        assert done.returncode != 0 and "in" not in done.stdout
        raise subprocess.TimeoutExpired(code, 5)  # refused at once is as good as never let in


def test_a_whole_experiment(ray_cluster: RayCluster, lab: Lab) -> None:
    from star.scheduler.ray import RayExecutor

    plan = lab.plan(lab.file(("[0.1, 0.2, 0.3, 0.4]", "[0.1]")))
    assert lab.run(plan, RayExecutor(lab.home, worker=WORKER)).done == 8
    assert {job.state for job in lab.ledger.jobs.of().values()} == {DONE} and set(lab.times_done().values()) == {1}
    handle = lab.job(plan, "train").handle
    assert handle is not None and handle["cluster"] == ray_cluster.environment["RAY_ADDRESS"]


def test_a_job_that_waits_for_room_can_be_cancelled(ray_cluster: RayCluster, lab: Lab) -> None:
    from star.scheduler.ray import RayExecutor

    plan = lab.plan(sets=("resources.memory_gb={dataset: 100000}",))
    asked: list[float] = []

    def stop(states: object) -> None:
        job = lab.job(plan, "dataset")
        if job.handle is not None and not asked:
            asked.append(time.time())
            lab.ledger.jobs.want([job.key], "cancel")

    outcome = lab.run(plan, RayExecutor(lab.home, worker=WORKER), tick=stop)
    assert asked and lab.job(plan, "dataset").state == CANCELLED and len(outcome.blocked) == 19
    assert cancel(lab.home, lab.ledger, [], lambda name: RayExecutor(lab.home), lab.said.append) == []


def test_a_training_on_two_machines(ray_cluster: RayCluster, lab: Lab, prepared: Path, tmp_path: Path) -> None:
    """The real worker: a torchrun agent on each node, one process each, which meet and train together."""
    from star.scheduler.ray import RayExecutor

    spec = tiny(resources__nodes={"train": 2}, optim__steps=10)
    job = job_in(tmp_path / "job", "train", spec, encode=next(prepared.glob("jobs/encode-*")))
    job.job.write_text(json.dumps({**read_json(job.job), "nodes": 2, "attempt": 1}))
    executor = RayExecutor(lab.home)
    claim = executor.place("train", spec.resources, None)
    start = Start(job, "train", f"star-train-two-{os.getpid()}-1", ROOT, spec.resources, claim)
    (handle,) = executor.submit([start])
    assert isinstance(handle, dict) and handle["nodes"] == 2
    watched = Watched(job, start.name, handle, claim.host)
    until(lambda: executor.poll([watched])[0] is not None, "two machines train")
    assert job.result.exists(), job.log.read_text()[-3000:]
    result = read_json(job.result)
    assert (result["provenance"]["processes"], result["provenance"]["nodes"]) == (2, 2)

"""Commands of the user's own on the engines: a real Slurm, a real Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from star.rundir import read_json
from tests.cli.test_own_script import files
from tests.helpers import star_exp


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_a_script_runs_there(engine: str, images: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster = request.getfixturevalue({"slurm": "slurm", "ray": "ray_cluster"}[engine])
    environment = cluster.environment if engine == "ray" else {}
    file = files(
        tmp_path / "mine",
        ("command: python train.py", "command: python train.py --images 600"),
        ("[accuracy]", "{accuracy: 'accuracy ([0-9.]+)'}"),
    )
    line = ["run", file, "--plain", "--executor", engine, "--seeds", "0", "--set", "resources.fit.threads=2"]
    done = star_exp(*line, home=tmp_path / "home", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all done: 4 jobs computed" in done.stdout
    for path in (tmp_path / "home" / "jobs").glob("fit-*"):
        origin = read_json(path / "result.json")["provenance"]
        assert origin["threads"] == 2 and bool(origin["slurm_job"]) == (engine == "slurm")
        assert len((path / "metrics.jsonl").read_text().splitlines()) == 2
    shutil.rmtree(tmp_path / "mine")
    again = star_exp("report", "classifier", home=tmp_path / "home", cwd=tmp_path)
    assert again.returncode == 0, "the copy in the home is enough"

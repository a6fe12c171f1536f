"""What several tests use: the command line in its own process, and a spec that trains in seconds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml

from star.data.codes import CodeStore
from star.data.sharded import ShardedArray
from star.pipeline.config import RunSpec
from star.rundir import JobDir
from star.spec.load import load
from tests.command import run_module
from tests.forked import ROOT, Forked

DATA = ROOT / "runs" / "data" / "fashion-mnist"
TINY = ROOT / "tests" / "tiny.yaml"
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler"
)


def star_exp(
    *arguments: str | Path, home: Path | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in its own process."""
    command = ["star.cli", *map(str, arguments)]
    if home is not None:
        command += ["--home", str(home)]
        if arguments[0] == "run" and home.exists() and not (home / "mlflow.sqlite").exists():
            shutil.copy(empty_tracking_store(), home / "mlflow.sqlite")
    return run_module(*command, environment=os.environ | environment, cwd=cwd or Path.cwd())


def empty_tracking_store() -> Path:
    """MLflow's tables without a row: making them takes a second, and most tests are about something else."""
    path = ROOT / ".pytest_cache" / f"mlflow-{version('mlflow')}.sqlite"
    if not path.exists():
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.parent.mkdir(exist_ok=True)
        code = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{new}').search_experiments()"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=200)
        new.replace(path)
    return path


def write_store(folder: Path, codes: np.ndarray, labels: np.ndarray) -> CodeStore:
    """A code store with this content."""
    for name, values, kind in (("codes", codes, np.uint16), ("labels", labels, np.int64)):
        array = ShardedArray(folder / "parts", name, values.shape, kind)
        array.prepare()
        for shard, rows in array.missing(0, 1):
            array.write(shard, values[rows])
        array.finish(folder)
    return CodeStore(folder)


def tiny(**changes: Any) -> RunSpec:
    """The first run of tests/tiny.yaml, with `section__field=value` changes."""
    values = load(TINY).variants[0].runs[0].model_dump()
    for path, value in changes.items():
        section, field = path.split("__")
        values[section][field] = value
    return RunSpec.model_validate(values)


def context(spec: RunSpec, stage: str, folder: Path, **inputs: Path) -> Any:
    """What `stage` gets when it runs in this process, in `folder`; its inputs' `out` folders by name."""
    from star.ranks import ALONE
    from star.stages.context import Context

    out = folder / stage / "out"
    out.mkdir(parents=True)
    return Context(
        spec=spec,
        inputs=inputs,
        out=out,
        checkpoints=folder / stage / "checkpoints",
        resume_from=[],
        data_home=DATA.parent,
        device=torch.device("cpu"),
        threads=1,
        ranks=ALONE,
        record=lambda step, metrics: None,
        progress=lambda done, total: None,
        stop=lambda: False,
    )


def job_in(folder: Path, stage: str, spec: RunSpec, processes: int = 1, **inputs: Path) -> JobDir:
    """A job of `stage`, ready for a worker; its inputs' job folders by name."""
    job = JobDir(folder)
    job.path.mkdir(parents=True, exist_ok=True)
    content = {
        "stage": stage,
        "key": "k",
        "spec": spec.model_dump(mode="json"),
        "threads": 1,
        "processes": processes,
        "inputs": {name: str(path) for name, path in inputs.items()},
        "data_home": str(DATA.parent),
        "code": "test",
    }
    job.job.write_text(json.dumps(content))
    return job


def start_worker(job: JobDir) -> Forked:
    """A worker on a job, as the local executor starts it."""
    return Forked(job.path, job.log)


def living_workers(home: Path, module: str = "star.worker") -> list[psutil.Process]:
    """The processes that work on jobs of a home."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        title = " ".join(process.info["cmdline"] or [])
        if f"-m {module} {home.resolve()}/" in title and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def work(job: JobDir) -> int:
    """Run a worker to its end; returns its exit code."""
    return start_worker(job).wait()


def page_of_docs(text: str, folder: Path) -> Path:
    """A folder with the files that a page of the docs shows, profiles beside them, and the images where it says."""
    for name, content in re.findall(r"```(?:yaml|python)\n# (\S+)\n(.*?)```", text, re.DOTALL):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    profile = yaml.safe_load((ROOT / "tests" / "profiles" / "tiny.yaml").read_text())
    (folder / "study" / "profiles").mkdir()  # pages use presets of the larger ones
    (folder / "study" / "profiles" / "tiny.yaml").write_text(
        yaml.safe_dump(profile | {"presets": {"B": {}, "50ep": {}}})
    )
    (folder / "study" / "profiles" / "fashion.yaml").symlink_to(ROOT / "experiments" / "profiles" / "fashion.yaml")
    (folder / "runs" / "data").mkdir(parents=True)
    (folder / "runs" / "data" / "fashion-mnist").symlink_to(DATA)
    return folder

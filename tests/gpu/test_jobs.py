"""The main job on a GPU: every stage through the scheduler, killed and resumed, GPUs shared by memory."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from star.devices import visible_gpus
from tests.helpers import ROOT, star_exp
from tests.scheduler.test_kill import Running

TABLE, SHARED = ROOT / "tests" / "tiny.yaml", ROOT / "tests" / "tiny_shared.yaml"
Homes = Callable[[str], Path]


@pytest.fixture(scope="module")
def shared(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which tokenizer, codes and reference were computed on the GPU."""
    made = tmp_path_factory.mktemp("shared")
    (made / "data").mkdir()
    (made / "data" / "fashion-mnist").symlink_to(images)
    run(SHARED, made, "resources.device=cuda")
    return made


@pytest.fixture
def home(shared: Path, tmp_path: Path) -> Homes:
    """Makes homes that hold what is shared and nothing else."""

    def made(name: str) -> Path:
        (tmp_path / name).mkdir()
        for part in ("data", "jobs"):
            shutil.copytree(shared / part, tmp_path / name / part, symlinks=True)
        return tmp_path / name

    return made


def results(home: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(home.glob(f"jobs/{stage}-*/result.json"))]


def test_the_driver_and_torch_name_the_same_gpu() -> None:
    gpus = visible_gpus()
    assert len(gpus) == torch.cuda.device_count()
    properties = torch.cuda.get_device_properties(0)
    assert gpus[0].name == properties.name and gpus[0].uuid == f"GPU-{properties.uuid}" and gpus[0].driver
    assert gpus[0].memory >= properties.total_memory > 0.9 * gpus[0].memory
    assert 0 < gpus[0].free <= gpus[0].memory


def run(experiment: Path, home: Path, *sets: str) -> None:
    changes = [part for change in sets for part in ("--set", change)]
    done = star_exp("run", experiment, "--plain", *changes, home=home, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_table_on_the_gpu(home: Homes, precision: str) -> None:
    """Every stage on the GPU; in float32 its results beside those of the CPU, from the same codes."""
    gpu, cpu = home("gpu"), home("cpu")
    settings = (f"optim.precision={precision}", f"generate.precision={precision}")
    run(TABLE, gpu, *settings, "resources.device=cuda")
    name = torch.cuda.get_device_name()
    for path in gpu.glob("jobs/*/result.json"):
        provenance, stage = json.loads(path.read_text())["provenance"], path.parent.name.split("-")[0]
        assert (provenance["device"] == name) == (stage != "dataset"), path
        assert [found["name"] for found in provenance["gpus"]] == ([] if stage == "dataset" else [name]), path
    assert "\n| 0.25 | " in (gpu / "reports" / "tiny" / "tiny" / "report.md").read_text()
    if precision == "bf16":
        return
    run(TABLE, cpu, *settings, "resources.device=cpu")
    for stage, metric, tolerance in (
        ("train", "val_nll", 1e-3),
        ("score", "efficientnet-lite0/frechet_distance", 0.05),
        ("probe", "accuracy", 0.1),  # of 200 test images
    ):
        both = [[one["metrics"][metric] for one in results(place, stage)] for place in (gpu, cpu)]
        assert len(both[0]) == len(both[1]) == 2 and both[0] == pytest.approx(both[1], rel=tolerance), stage


def trainings(home: Path) -> list[float]:
    return [one["metrics"]["val_nll"] for one in results(home, "train")]


def test_a_killed_training_ends_as_one_that_was_not(home: Homes) -> None:
    sets, straight, broken = ("optim.steps=400", "resources.device=cuda"), home("straight"), home("broken")
    assert Running(straight, *sets).process.wait(timeout=300) == 0
    first = Running(broken, *sets)
    first.until(first.has_checkpoint)
    workers = first.workers()
    first.kill(signal.SIGKILL)
    for process in workers:
        process.kill()
    assert len(trainings(broken)) < 2
    assert Running(broken, *sets).process.wait(timeout=300) == 0
    assert trainings(broken) == trainings(straight) and len(trainings(broken)) == 2


@pytest.mark.parametrize(("memory", "together"), [("{train: 2}", True), ("{}", False)])
def test_jobs_share_the_gpu_by_memory_or_have_it_alone(home: Homes, memory: str, together: bool) -> None:
    place = home("home")
    sets = ("optim.steps=300", "resources.device=cuda", f"resources.gpu_memory_gb={memory}")
    assert Running(place, *sets).process.wait(timeout=300) == 0
    spans = sorted((one["finished"] - one["seconds"], one["finished"]) for one in results(place, "train"))
    assert len(spans) == 2 and (spans[1][0] < spans[0][1]) == together, spans

"""A training that ended at a step and one that goes on from there: together they are the training that never ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from star.metric_log import MetricLog, read_metrics
from star.rundir import JobDir, read_json, write_json
from star.weights import load_weights
from tests.helpers import context, tiny
from tests.stage_code import CODE

SPEC = tiny(data__train_images=100, optim__steps=30, resources__checkpoint_every=7)


@pytest.fixture(scope="module")
def encoded(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("encoded")
    for stage, inputs in (("dataset", []), ("tokenizer", ["dataset"]), ("encode", ["dataset", "tokenizer"])):
        CODE[stage](context(SPEC, stage, home, **{name: home / name / "out" for name in inputs}))
    return home / "encode"


def trained(folder: Path, encoded: Path, until: int | None, *resume_from: JobDir) -> JobDir:
    spec = SPEC.model_copy(update={"optim": SPEC.optim.model_copy(update={"stop_at_step": until})})
    job = JobDir(folder / "train")
    made = context(spec, "train", folder, encode=encoded / "out")
    log = MetricLog(job.metrics)
    made.resume_from, made.record = [one.out for one in resume_from], log.record
    write_json(job.result, CODE["train"](made))
    log.close()
    return job


def curve(job: JobDir) -> dict[int, dict[str, float]]:
    return {line["step"]: line["metrics"] for _, line in read_metrics(job.metrics)}


def test_going_on_is_never_having_stopped(encoded: Path, tmp_path: Path) -> None:
    straight = trained(tmp_path / "straight", encoded, None)
    ten = trained(tmp_path / "ten", encoded, 10)
    twenty = trained(tmp_path / "twenty", encoded, 20, ten)
    gone_on = trained(tmp_path / "gone_on", encoded, None, ten, twenty)
    assert (ten.out / "step-000000010.pt").exists() and not list(straight.out.glob("step-*"))
    assert curve(gone_on) == curve(straight)  # to the last digit
    for name in ("student", "teacher"):
        first, second = (load_weights(job.out / f"{name}.pt") for job in (straight, gone_on))
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert read_json(gone_on.result) == read_json(straight.result)


def test_a_damaged_head_start_costs_steps_and_not_the_run(encoded: Path, tmp_path: Path) -> None:
    ten = trained(tmp_path / "ten", encoded, 10)
    state = ten.out / "step-000000010.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    straight = trained(tmp_path / "straight", encoded, 20)
    gone_on = trained(tmp_path / "gone_on", encoded, 20, ten)
    assert curve(gone_on) == curve(straight)

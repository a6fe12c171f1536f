"""A stage of a plugin as the platform calls it: what it may record and return, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from star.errors import DataError
from star.ranks import ALONE
from star.spec.load import load
from star.stages.context import Context
from star.stages.own import own_stage
from tests.spec.test_plugins import PLUGIN, written


def ran(tmp_path: Path, body: str) -> tuple[Mapping[str, float], list[tuple[int, Mapping[str, float]]]]:
    """What a stage returns and records whose `run` has this body."""
    code = PLUGIN.replace('        return {"mean": 0.0}\n', "".join(f"        {line}\n" for line in body.splitlines()))
    run = load(written(tmp_path, "import sys\nimport numpy as np\n" + code)).variants[0].runs[0]
    plugin = next(iter(run.plugins.values()))  # type: ignore[attr-defined]
    recorded: list[tuple[int, Mapping[str, float]]] = []
    rest: dict[str, Any] = {
        "inputs": {},
        "out": tmp_path,
        "checkpoints": tmp_path,
        "resume_from": (),
        "data_home": tmp_path,
    }
    ctx = Context(
        run,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        threads=1,
        ranks=ALONE,
        record=lambda step, values: recorded.append((step, values)),
        progress=lambda done, total: None,
        stop=lambda: False,
        **rest,
    )
    return own_stage(run, "loudness", {plugin.digest: tmp_path})(ctx), recorded


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path: Path) -> None:
    body = 'job.record(np.int64(3), {"mean_by_row": np.float32(0.5)})\nreturn {"mean": np.float64(0.25)}'
    assert ran(tmp_path, body) == ({"mean": 0.25}, [(3, {"mean_by_row": 0.5})])


@pytest.mark.parametrize(
    "body, message",
    [
        ('job.record(1.5, {"mean_by_row": 1})', r"job.record\(1.5, ...\): "),
        ('job.record(-1, {"mean_by_row": 1})', "a step is a whole number from 0"),
        ('job.record(10**20, {"mean_by_row": 1})', "a step is a whole number from 0"),
        ('job.record(1, {"mean_by_row": "high"})', "give a whole number and numbers by name"),
        ('return {"mean": "0.5"}', "returned mean = '0.5', which is no number"),
        ('return {"mean": True}', "returned mean = True, which is no number"),
        ('return {"mean": None}', "returned mean = None, which is no number"),
        ('return {"mean": np.zeros(2)}', "returned mean = .*, which is no number"),
        ("return {1: 2}", r"returned 1, and declares results = \['mean'\]"),
    ],
)
def test_what_is_no_number_is_refused(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"loudness: .*{message}"):
        ran(tmp_path, body)


def test_one_that_leaves_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"loudness: its code called sys.exit\(0\)"):
        ran(tmp_path, "sys.exit(0)")

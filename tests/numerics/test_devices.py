"""No stage leaves a tensor on the CPU when it computes on a GPU; without a GPU, and without computing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from torch.utils import backend_registration

from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch takes no devices written in Python",
)
COMMAND = [sys.executable, "-W", "ignore", "-m", "tests.numerics.on_pretended_gpu"]
STAGES = ("train", "tokenizer", "encode", "generate", "score", "probe")


def told(*arguments: str) -> dict[str, str]:
    """In a process of its own: PyTorch does not forget a device that it was told of."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = (line.partition(": ") for line in done.stdout.splitlines())
    return {name: what for name, _, what in lines if name in STAGES}


def test_all_tensors_of_a_stage_lie_on_the_gpu() -> None:
    assert told() == dict.fromkeys(STAGES, "done")


def test_a_tensor_that_was_left_behind_is_noticed() -> None:
    found = told("--broken")
    assert "two devices, gpu:0 and cpu" in found.pop("train")
    assert set(found.values()) == {"done"}

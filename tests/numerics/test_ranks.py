"""The loss and its gradient are those of the whole batch, however it is cut: micro-batches, ranks, copies or shards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT
from tests.numerics.on_ranks import IMAGES, METHODS

SCRIPT = ["-m", "tests.numerics.on_ranks"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one, two and four processes computed."""
    out = tmp_path_factory.mktemp("ranks")
    for count in (1, 2, 4):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
        done = subprocess.run(
            [sys.executable, *launcher, *SCRIPT, str(out)], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("method", METHODS)
def test_every_layout_has_the_loss_and_gradient_of_one_process(found: Path, method: str) -> None:
    layouts = {path.stem.removeprefix(f"{method} - "): torch.load(path) for path in found.glob(f"{method} - *.pt")}
    assert sorted(layouts) == sorted(
        [f"1 ranks ddp micro {micro}" for micro in (1, 3, 8)]
        + [f"2 ranks {parallel} micro {micro}" for parallel in ("ddp", "fsdp") for micro in (1, 3, 4)]
        + [f"4 ranks {parallel} micro {micro}" for parallel in ("ddp", "fsdp") for micro in (1, 2)]
    )
    whole = layouts[f"1 ranks ddp micro {IMAGES}"]
    assert len(whole) >= 20 and all(value.abs().sum() > 0 for value in whole.values())
    for name, layout in layouts.items():
        assert set(layout) == set(whole)
        for key, value in whole.items():
            torch.testing.assert_close(
                layout[key], value, atol=1e-9, rtol=1e-9, msg=lambda m, n=name, k=key: f"{n}: {k}: {m}"
            )

"""How torch computes in a worker."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from star.torch_setup import repeatable


def test_a_worker_computes_float32_in_float32_and_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")  # so that it is taken away again afterwards
        monkeypatch.delenv(name)
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()
    try:
        torch.backends.cudnn.allow_tf32 = True
        torch.use_deterministic_algorithms(False)
        repeatable(1)
        assert not torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
        assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        torch.use_deterministic_algorithms(before[2])


@pytest.mark.parametrize("first", ["", "import torch._inductor"])
def test_the_compiler_is_told_and_not_imported(first: str) -> None:
    """To import it takes longer than a small job."""
    code = f"""
import sys, torch
{first}
from star.torch_setup import repeatable
repeatable(1)
print("torch._inductor" in sys.modules, torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
import torch._inductor.config
print(torch._inductor.config.deterministic)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(bool(first)), "True", "True", "True"]

"""These tests need a GPU; `make gpu` runs them. Without one they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from star.torch_setup import repeatable

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no GPU here; `make gpu` runs these tests where there is one"))


@pytest.fixture(autouse=True)
def as_a_worker() -> Iterator[None]:
    """The settings that a worker computes with."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
    repeatable(1)
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]

"""A small dose of tests/scheduler/chaos.py."""

from __future__ import annotations

from pathlib import Path

from tests.scheduler.chaos import Chaos


def test_kills_at_random_moments_lose_nothing(images: Path, tmp_path: Path) -> None:
    chaos = Chaos(tmp_path / "home", seed=1, seconds=1.0)
    chaos.run(kills=15, timeout=380)
    chaos.check()
    assert len(chaos.hits) == 3, chaos.hits

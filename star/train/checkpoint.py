"""Checkpoints: written as a whole or not at all, loaded without executing anything, the newest good one first."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from star.errors import DataError
from star.weights import load_weights, save_weights

log = logging.getLogger(__name__)


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write the state after `step` steps; keep the newest `keep` checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / f"step-{step:09d}.pt", state)
    for old in _newest_first(folder)[keep:]:
        old.unlink()


def load_newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that can be read, as (step, state); a damaged one falls back to the one before."""
    for path in _newest_first(folder):
        try:
            return int(path.stem.removeprefix("step-")), load_weights(path)
        except DataError as error:
            log.warning("%s; falling back to the checkpoint before", error)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)

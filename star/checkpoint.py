"""Checkpoints: written atomically in a background thread; the newest undamaged one is loaded.

A file holds the full state whatever the number of ranks that trained it, so any number of ranks can resume from it.
"""

from __future__ import annotations

import errno
import logging
import threading
import zipfile
from pathlib import Path
from typing import Any

import torch

from star.errors import PASSING, DataError, has_errno
from star.weights import load_weights, save_weights

log = logging.getLogger(__name__)
BEST = "best.pt"
MAY_BE_WHOLE = PASSING | {errno.EACCES, errno.EPERM}
"""Errors of the system that say nothing about a checkpoint: a login to the file system may have run out."""


class Checkpoints:
    """The checkpoints in a folder: the newest `keep`, and the weights with the best validation loss.

    One thread writes; a new save waits for the one before, so at most one snapshot is held in memory.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps in the background; returns as soon as it is copied to the CPU.

        Raises:
            DataError: the previous save failed.
        """
        self._start(f"step-{step:09d}.pt", state)

    def save_best(self, state: dict[str, Any]) -> None:
        """Replace the best weights in the background, as `save` does."""
        self._start(BEST, state)

    def wait(self) -> None:
        """Wait until the last save is on disk.

        Raises:
            DataError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise DataError(
                f"{self.folder}: a checkpoint could not be written: {error}. Free some space and run again."
            ) from error  # which says whether the disk is full

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest undamaged checkpoint as (step, state); None if there is none."""
        for path in self._newest_first():
            try:
                return int(path.stem.removeprefix("step-")), _verified(path)
            except DataError as error:
                if has_errno(error, MAY_BE_WHOLE):  # to be tried again, not to be given up
                    raise
                log.warning("%s; falling back to the checkpoint before", error)
        return None

    def best(self) -> dict[str, Any] | None:
        """The best weights so far; None if there are none, or they are damaged."""
        path = self.folder / BEST
        try:
            return _verified(path) if path.exists() else None
        except DataError as error:
            if has_errno(error, MAY_BE_WHOLE):
                raise
            log.warning("%s; it is left out", error)
            return None

    def _start(self, name: str, state: dict[str, Any]) -> None:
        self.wait()
        snapshot = _copied(state)
        self._thread = threading.Thread(target=self._write, args=(name, snapshot), name="checkpoint")
        self._thread.start()

    def _write(self, name: str, state: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.pt.*"):  # partial files of a killed process
                left.unlink()
            save_weights(self.folder / name, state)
            later = [path for path in self._newest_first() if path.name > name and name != BEST]
            for path in later:  # damaged: training went on from an earlier one
                path.unlink()
            for old in self._newest_first()[self.keep :]:
                old.unlink()
        except (OSError, RuntimeError) as error:
            self._error = error

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"), reverse=True)


def _copied(value: Any) -> Any:
    """A deep copy on the CPU, which training does not touch."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


def _verified(path: Path) -> dict[str, Any]:
    """The content of a checkpoint after checking its zip checksums, which torch does not do.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}") from None
    if damaged:
        raise DataError(f"{path}: damaged at {damaged}")
    return load_weights(path, mapped=True)

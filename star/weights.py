"""Files of tensors: written as a whole or not at all, read without executing anything."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from star.errors import DataError
from star.rundir import write_bytes


def save_weights(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_weights(path: Path) -> dict[str, Any]:
    """Read a file of tensors onto the CPU.

    Raises:
        DataError: it is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path}: cannot be read as weights: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
    return state

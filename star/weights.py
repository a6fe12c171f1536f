"""Files of tensors: written atomically, read without executing anything, checked key by key."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from star.errors import DataError
from star.sniff import is_safetensors, misnamed
from star.words import shown

LAYOUTS = ("model", "module", "state_dict", "ema")
"""Keys of a file that may hold its weights, in the order of LlamaGen's scripts; else the file itself is the weights."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile add to keys."""
SHOWN = 3
"""Most keys that an error message names."""
log = logging.getLogger(__name__)


def save_weights(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values atomically: to a temporary file beside `path`, synced, then renamed over it.

    Raises:
        OSError, RuntimeError: it cannot be written, such as on a full disk, of which torch says either; no partial file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError):  # a full disk, of which torch says either: leave no partial file
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def load_weights(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Read a file of tensors (torch's or .safetensors) onto the CPU; nothing in it is executed.

    Args:
        mapped: leave tensors in the file until they are used; several ranks then share one copy in memory.

    Raises:
        DataError: it is missing, damaged, or holds more than tensors and plain values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.is_file() and (known := misnamed(path)):
        raise DataError(f"{shown(path)}: cannot be read as weights: {known}.")
    try:
        if is_safetensors(path):
            return dict(load_file(path))
        # LlamaGen's checkpoints hold their training arguments as a Namespace, which is data
        with torch.serialization.safe_globals([argparse.Namespace]):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise DataError(f"{shown(path)}: cannot be read as weights: {_reason(error)}.") from None
    except (
        TypeError,
        AttributeError,
        IndexError,
        ImportError,
        AssertionError,
    ) as error:  # a pickle made of something else
        raise DataError(f"{shown(path)}: cannot be read as weights: it is damaged ({type(error).__name__}).") from None
    return state


def _reason(error: Exception) -> str:
    """torch's error message, replaced if it advises to execute what is in the file."""
    text = str(error)
    if "weights_only" in text or "WeightsUnpickler" in text or isinstance(error, pickle.UnpicklingError):
        name = re.search(r"GLOBAL ([\w.]+)", text)
        what = f" ({name[1]})" if name else ""
        if "TorchScript" in text:
            return "it is a TorchScript archive, a program; save the model's state dict instead"
        return (
            f"it holds other Python objects than tensors and plain values{what}, or is no torch file; nothing in it is executed: load it "
            "where you trust it, and save its state dict alone"
        )
    if "inline_container" in text or "PytorchStreamReader" in text:
        return "it is a zip archive, whole or not, without torch's weights in it; give a .pt or a .safetensors"
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def load_state(path: Path, first: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file of any of LAYOUTS, without the prefixes in WRAPPERS; logs which, if the file has several.

    Args:
        first: the layout to prefer if a file has several (`ema` for LlamaGen's tokenizers).

    Raises:
        DataError: the file cannot be read, or holds no weights.
    """
    content = load_weights(path)
    order = dict.fromkeys(([first] if first else []) + list(LAYOUTS))
    there = [layout for layout in order if isinstance(content, dict) and isinstance(content.get(layout), dict)]
    if there:
        content = content[there[0]]
    if len(there) > 1:
        log.warning("%s: the weights are those under `%s`, not `%s`", shown(path), there[0], "`, `".join(there[1:]))
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    ):
        raise DataError(
            f"{shown(path)}: holds no weights; legal are a state dict, or one under {', '.join(LAYOUTS)}, as in LlamaGen's files."
        )
    twice = [key for key in content if _bare(key) != key and _bare(key) in content]
    if twice:
        raise DataError(
            f"{shown(path)}: holds both {twice[0]} and {_bare(twice[0])}, and nothing says which counts; keep one."
        )
    return {_bare(key): value for key, value in content.items()}


def fit(model: nn.Module, state: dict[str, Tensor], path: Path, section: str, unused: tuple[str, ...] = ()) -> None:
    """Load a state dict into a model if all keys and shapes match.

    Args:
        section: the section of the spec that defines the model, for the error message.
        unused: keys that files may have and the model does not need.

    Raises:
        DataError: keys are missing, unexpected or of another shape (the message says which), or weights are not finite.
    """
    expected = model.state_dict()
    state = {key: value for key, value in state.items() if key not in unused}
    real = {key for key, value in expected.items() if value.is_floating_point()}  # leaves out BatchNorm's batch counts
    _check_numbers({key: value for key, value in state.items() if key in real}, path)
    wrong_shape = [
        f"{key} is {_shape(state[key])}, not {_shape(value)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    findings = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": wrong_shape,
    }
    if any(findings.values()):
        report = "; ".join(f"{len(keys)} {name}: {_some(keys)}" for name, keys in findings.items() if keys)
        raise DataError(
            f"{shown(path)}: does not fit the spec's section {section}: {report}. Change {section}, or the file."
        )
    model.load_state_dict(state)


def _check_numbers(state: dict[str, Tensor], path: Path) -> None:
    """Check that weights are dense floating-point tensors of finite numbers.

    Raises:
        DataError: one is not; the message names the first.
    """
    for key, value in state.items():
        if value.is_meta or value.layout != torch.strided:
            raise DataError(
                f"{shown(path)}: {key} is a {'meta' if value.is_meta else 'sparse'} tensor; save it dense, with its values."
            )
        if not value.is_floating_point() or value.element_size() < 2:
            raise DataError(
                f"{shown(path)}: {key} holds {str(value.dtype).removeprefix('torch.')}, and weights are floating-point numbers of 16 "
                "bits or more; give a checkpoint that is not quantised."
            )
        bad = int((~value.float().isfinite()).sum())
        if bad:
            raise DataError(
                f"{shown(path)}: {bad} of the {value.numel()} numbers of {key} are NaN or infinite: its training had diverged; give an "
                "earlier checkpoint."
            )


def _bare(key: str) -> str:
    while key.startswith(WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def _shape(value: Tensor) -> str:
    return "x".join(str(size) for size in value.shape) or "a single number"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")

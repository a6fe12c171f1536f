"""The terms of `star_objectives` as a run of a small model has them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from star.objectives.term import Term
from star.pipeline.config.setting import Setting
from star.pipeline.config.tokenizer import TokenizerSpec
from star.tokenizer.vq import VQModel
from star_objectives import Align, Cluster, Coarse, Codebook, Ema, Foresight, Mtp, Noise, Order, Registers, Tcr
from tests.helpers import write_store

SETTING = Setting(
    n_layer=2, dim=16, grid=3, codebook_size=32, num_classes=10, ffn_hidden=48, feature_channels=5, sequences=12
)
FIELDS: dict[str, dict[str, Any]] = {
    "noise": {"weight": 1.0},
    "codebook": {"weight": 1.0},
    "foresight": {"weight": 2.0, "layer": 1, "start_at": 0.0},
    "cluster": {"weight": 1.0, "size": 4},
    "mtp": {"weight": 0.1, "blocks": 1},
    "tcr": {"weight": 0.2, "among": "image", "outputs": 6},
    "ema": {"weight": 1.0},
    "align": {"weight": 0.5, "layer": 1},
}
"""Each term that reads codes in raster order, or changes the input codes alone, and fields that suit the small model."""
ARRANGING: dict[str, dict[str, Any]] = {
    "order": {"weight": 1.0, "start": 0.1, "end": 0.9},
    "coarse": {"weight": 1.0},
    "registers": {"weight": 1.0, "window": 2},
}
"""Each term that has the model run on something else; they want an even grid."""
EVEN = replace(SETTING, grid=4)


def tokenizer() -> VQModel:
    """One of 32 codes of 8 channels, on the unit sphere."""
    torch.manual_seed(5)
    return VQModel(TokenizerSpec(codebook_size=32, codebook_dim=8, channels=32, channel_mult=[1, 1], z_channels=8), 1)


def term(name: str, setting: Setting = SETTING, **fields: Any) -> Term:
    """A term that is prepared as a job prepares it."""
    kind = {
        one.name: one for one in (Align, Cluster, Coarse, Codebook, Ema, Foresight, Mtp, Noise, Order, Registers, Tcr)
    }[name]
    values = {**FIELDS, **ARRANGING}[name] | fields
    found: Term = kind(kind.config(**values), setting)
    found.weight = float(values["weight"])
    found.prepare(job_of(setting.length))
    return found


@cache
def job_of(length: int) -> Any:
    """What a job gives a term: a tokenizer, and codes and maps of 40 images and ten views."""
    folder = Path(tempfile.mkdtemp(prefix="published-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    write_store(folder / "encode" / "train", rng.integers(0, 32, (40, 10, length)), rng.integers(0, 10, 40))
    (folder / "features").mkdir()
    np.save(folder / "features" / "features.npy", rng.standard_normal((40, 10, length, 5)).astype(np.float16))
    return SimpleNamespace(tokenizer=tokenizer, inputs={name: folder / name for name in ("encode", "features")})

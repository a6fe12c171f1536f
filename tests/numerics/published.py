"""The terms of `star_objectives` as a run of a small model has them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from star.objectives.term import Term
from star.pipeline.config.setting import Setting
from star.pipeline.config.tokenizer import TokenizerSpec
from star.tokenizer.vq import VQModel
from star_objectives import Cluster, Codebook, Ema, Foresight, Mtp, Noise, Tcr

SETTING = Setting(n_layer=2, dim=16, grid=3, codebook_size=32, num_classes=10, ffn_hidden=48)
FIELDS: dict[str, dict[str, Any]] = {
    "noise": {"weight": 1.0},
    "codebook": {"weight": 1.0},
    "foresight": {"weight": 2.0, "layer": 1, "start_at": 0.0},
    "cluster": {"weight": 1.0, "size": 4},
    "mtp": {"weight": 0.1, "blocks": 1},
    "tcr": {"weight": 0.2, "among": "image", "outputs": 6},
    "ema": {"weight": 1.0},
}
"""Each term and fields that suit the small model."""


def tokenizer() -> VQModel:
    """One of 32 codes of 8 channels, on the unit sphere."""
    torch.manual_seed(5)
    return VQModel(TokenizerSpec(codebook_size=32, codebook_dim=8, channels=32, channel_mult=[1, 1], z_channels=8), 1)


def term(name: str, setting: Setting = SETTING, **fields: Any) -> Term:
    """A term that is prepared as a job prepares it."""
    kind = {one.name: one for one in (Cluster, Codebook, Ema, Foresight, Mtp, Noise, Tcr)}[name]
    found: Term = kind(kind.config(**{**FIELDS[name], **fields}), setting)
    found.weight = float({**FIELDS[name], **fields}["weight"])
    job: Any = SimpleNamespace(tokenizer=tokenizer, inputs={})
    found.prepare(job)
    return found

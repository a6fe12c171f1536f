"""The VQ model of a run: what the tokenizer stage wrote, or a LlamaGen checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from star.errors import DataError
from star.spec.sections import TokenizerSpec
from star.tokenizer.vq import VQModel
from star.weights import load_weights

BUFFER = "quantize.codebook_used"
"""Training statistics in LlamaGen's files that the model does not need."""


def load_vq(spec: TokenizerSpec, channels: int, path: Path) -> VQModel:
    """The model in `path`, in evaluation mode; nothing in the file is executed.

    Raises:
        DataError: the file cannot be read, or its keys and shapes are not this model's.
    """
    state = load_weights(path)
    for layout in ("ema", "model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(layout), dict):
            state = state[layout]
            break
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(
            f"{path}: holds no tokenizer weights; LlamaGen's vq_ds16_c2i.pt is an example of a file that does."
        )
    model = VQModel(spec, channels)
    state = {key: value for key, value in state.items() if key != BUFFER}
    expected = model.state_dict()
    wrong = sorted(set(expected) ^ set(state)) or sorted(
        k for k, value in expected.items() if value.shape != state[k].shape
    )
    if wrong:
        raise DataError(
            f"{path}: does not fit the tokenizer section: {len(wrong)} keys or shapes differ, first {wrong[0]}."
        )
    model.load_state_dict(state)
    return model.eval()

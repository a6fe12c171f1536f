"""The VQ model of a run: what the tokenizer stage wrote, or a LlamaGen checkpoint."""

from __future__ import annotations

from pathlib import Path

from star.pipeline.config.tokenizer import TokenizerSpec
from star.tokenizer.vq import VQModel
from star.weights import fit, load_state

BUFFER = "quantize.codebook_used"
"""Training statistics in LlamaGen's files that the model does not need; its own scripts refuse a file without it."""
BUFFER_SIZE = 65_536


def load_vq(spec: TokenizerSpec, channels: int, path: Path) -> VQModel:
    """Load the VQ model in `path`, on the CPU, in evaluation mode; nothing in the file is executed.

    Of a file with averaged weights too (LlamaGen's `ema`), those are taken, as LlamaGen's scripts do.

    Args:
        channels: of the images, 1 or 3.

    Raises:
        DataError: the file cannot be read, its keys and shapes are not this model's, or weights are not finite.
    """
    model = VQModel(spec, channels)
    fit(model, load_state(path, first="ema"), path, "tokenizer", unused=(BUFFER,))
    return model.eval()

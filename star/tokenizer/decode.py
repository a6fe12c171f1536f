"""Decoding codes to images with the VQ model, in the precision that a run asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from star.tokenizer.vq import VQModel


def image_decoder(vq: VQModel, precision: str, rows: int, compiled: bool = False) -> Callable[[Tensor], Tensor]:
    """A function from codes (B, T), of at most `rows` rows, to float32 images (B, C, S, S), roughly in [-1, 1].

    Args:
        vq: in evaluation mode. For `bf16` its decoder is converted in place.
        precision: `fp32`; `tf32` rounds the operands of convolutions to 10 bits on a GPU, and is `fp32` on a CPU; `bf16`
            also keeps weights and activations in bfloat16.
        compiled: compile the decoder, for batches of `rows`; smaller ones are filled up.
    """
    if precision == "bf16":
        for part in (vq.post_quant_conv, vq.decoder):
            part.to(torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decode = torch.compile(vq.decode, dynamic=False) if compiled else vq.decode

    @torch.no_grad()
    def images(codes: Tensor) -> Tensor:
        filled = F.pad(codes, (0, 0, 0, rows - len(codes))) if compiled else codes
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        try:
            return decode(filled)[: len(codes)].float()
        finally:
            torch.backends.cudnn.allow_tf32 = before

    return images

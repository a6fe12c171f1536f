"""A plugin's tokenizer: it is constructed here, and its outputs are checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from star.errors import DataError
from star.pipeline.config.plugged import RunWithPlugins
from star.pipeline.config.run import StarRun
from star.spec.plugins import part_of


class CheckedTokenizer:
    """Encodes and decodes with a plugin's model, and checks what the model returns."""

    def __init__(self, model: Any, spec: StarRun) -> None:
        self.model, self.spec = model, spec
        self.name = getattr(spec.tokenizer, "name", "")

    def encode(self, images: Tensor) -> Tensor:
        """Encode images (B, C, H, W) in [-1, 1] to codes (B, T) long.

        Raises:
            DataError: the model returns another shape or type, or codes outside the codebook.
        """
        with torch.no_grad():
            codes = self.model.encode(images)
        places = (images.shape[2] // self.spec.tokenizer.downsample) * (
            images.shape[3] // self.spec.tokenizer.downsample
        )
        wanted, size = (len(images), places), self.spec.tokenizer.codebook_size
        if tuple(codes.shape) != wanted or codes.dtype.is_floating_point:
            raise DataError(
                f"tokenizer.name: {self.name}: encode gave shape {tuple(codes.shape)} and type {codes.dtype} for {len(images)} images of "
                f"{images.shape[2]} x {images.shape[3]}; give {wanted} long, one code for each {self.spec.tokenizer.downsample} pixels "
                "(downsample) along a side."
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise DataError(
                f"tokenizer.codebook_size: {size}, but {self.name} gave codes from {int(codes.min())} to {int(codes.max())}; they count "
                "from 0."
            )
        return codes.long()

    def codebook(self) -> Tensor:
        """The vector of every code, (V, d).

        Raises:
            DataError: the model does not define `codebook`, or it returns another shape.
        """
        size = self.spec.tokenizer.codebook_size
        with torch.no_grad():
            found: Tensor = self.model.codebook()
        if found.ndim != 2 or len(found) != size:
            raise DataError(
                f"tokenizer.name: {self.name}: codebook gave shape {tuple(found.shape)}; give ({size}, d), a row for each code."
            )
        return found.float()

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (B, T) long to images (B, C, H, W).

        Raises:
            DataError: the model returns another shape.
        """
        with torch.no_grad():
            images = self.model.decode(codes)
        side = self.spec.tokenizer.downsample * round(codes.shape[1] ** 0.5)
        wanted = (len(codes), self.spec.data.channels, side, side)
        if tuple(images.shape) != wanted:
            raise DataError(
                f"tokenizer.name: {self.name}: decode gave images of shape {tuple(images.shape)}; give {wanted}."
            )
        found: Tensor = images
        return found


def own_tokenizer(spec: StarRun, folders: Mapping[str, Path]) -> Any:
    """Construct a plugin's tokenizer, not yet trained or loaded; None if the run's tokenizer is not a plugin's.

    Args:
        folders: digest of the plugin -> the copy of it to import.
    """
    plugin = spec.tokenizer_plugin if isinstance(spec, RunWithPlugins) else None
    if plugin is None:
        return None
    name = getattr(spec.tokenizer, "name", "")
    found = part_of(plugin, folders[plugin.digest], name)
    config = found.config.model_validate(getattr(spec.tokenizer, name).model_dump(mode="json"))
    torch.manual_seed(spec.tokenizer.seed)
    return found(config, spec.tokenizer.codebook_size, spec.data.channels)

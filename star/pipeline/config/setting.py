"""What a plugin's loss term gets to know of its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from star.spec.base import resolve_layer


@dataclass(frozen=True)
class Setting:
    """What a plugin's loss term gets to know of its run, beside its own config."""

    n_layer: int
    dim: int
    """D: channels of the hidden states."""
    grid: int
    """Codes along one side of an image; T is its square."""
    codebook_size: int
    num_classes: int

    @classmethod
    def of(cls, spec: Any) -> Setting:
        """The setting of a run, from its spec (a `RunSpec`)."""
        model, codes = spec.model, spec.tokenizer.codebook_size
        return cls(model.n_layer, model.dim, spec.grid, codes, spec.data.num_classes)

    def layer(self, which: int | str) -> int:
        """Convert a number, or a fraction of the depth such as 1/2, to a 1-based layer.

        Raises:
            ValueError: no layer matches.
        """
        return resolve_layer(which, self.n_layer)

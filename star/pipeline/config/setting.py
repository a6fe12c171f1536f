"""What a plugin's loss term gets to know of its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from star.spec.base import FieldError, resolve_layer


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
    ffn_hidden: int = 0
    """Hidden width of a block's feed-forward layer; only costs are computed from it."""
    codebook_dim: int = 8
    """Channels of the tokenizer's vectors; only costs are computed from it."""
    feature_channels: int = 0
    """Channels of the maps of the stage `features`; only costs are computed from it."""
    sequences: int = 1
    """Sequences that the student sees in a step; only costs are computed from it."""

    @classmethod
    def of(cls, spec: Any) -> Setting:
        """The setting of a run, from its spec (a `RunSpec`)."""
        model, codes, classes = spec.model, spec.tokenizer, spec.data.num_classes
        sequences = spec.optim.batch_size * min(spec.selfguided.student_views, spec.selfguided.num_views)
        size = (codes.codebook_size, classes, model.ffn_hidden, codes.codebook_dim, spec.features.channels, sequences)
        return cls(model.n_layer, model.dim, spec.grid, *size)

    @property
    def length(self) -> int:
        """T: codes of an image."""
        return self.grid**2

    def needs_neighbours(self, term: str) -> None:
        """Raise FieldError if codes have no others beside, above or before them: a 1 x 1 grid."""
        if self.grid < 2:
            raise FieldError(
                "", f"{term} compares codes with others of their image, and a 1 x 1 grid has one; give larger images"
            )

    def layer(self, which: int | str, field: str = "") -> int:
        """Convert a number, or a fraction of the depth such as 1/2, to a 1-based layer.

        Args:
            field: the config's field that says which, for the message.

        Raises:
            FieldError: no layer matches.
        """
        try:
            return resolve_layer(which, self.n_layer)
        except ValueError as error:
            near = f"{which!r} {error}"
            raise FieldError(
                field, near if not isinstance(which, str) or "~" in which else f"{near}, or the nearest: ~{which}"
            ) from None

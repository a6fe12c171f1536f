"""How much codes change when an image is shifted by a few pixels (figure 1c)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from star.data.pixels import Images

Codes = NDArray[np.int64]
DIRECTIONS = {"right": (0, 1), "down": (1, 0)}
"""(rows, columns) of a unit shift."""


def shifted(images: Images, size: int, shift: int, direction: str) -> Images:
    """Crops (B, size, size, C) of images (B, S, S, C), `shift` pixels from the top left corner; S >= size + shift."""
    rows, columns = (shift * step for step in DIRECTIONS[direction])
    return images[:, rows : rows + size, columns : columns + size]


def changed(first: Codes, second: Codes, shift: int, downsample: int, direction: str) -> NDArray[np.bool_]:
    """Which codes differ, (B, h, w), between views (B, g, g) of the same images, the second shifted by `shift` pixels.

    The grids are aligned by w = round(shift / downsample) whole codes: a cell of the second view is compared with the
    cell of the first that lies w cells further. Only cells that both views hold are compared. A shift of whole codes
    leaves the pixels under a code as they were, so only context changes.
    """
    whole = round(shift / downsample)
    rows, columns = (whole * step for step in DIRECTIONS[direction])
    height, width = first.shape[1] - rows, first.shape[2] - columns
    return first[:, rows:, columns:] != second[:, :height, :width]

"""How much codes change when an image is shifted by a few pixels (figure 1c)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from star.data.pixels import Images

Codes = NDArray[np.int64]
DIRECTIONS = {"right": (0, 1), "down": (1, 0)}
"""(rows, columns) of a unit shift."""


def shifted(images: Images, size: int, shift: int, direction: str) -> Images:
    """The views (B, size, size, C) of images (B, S, S, C) whose window lies `shift` pixels further; S >= size + shift."""
    rows, columns = (shift * step for step in DIRECTIONS[direction])
    return images[:, rows : rows + size, columns : columns + size]


def changed(first: Codes, second: Codes, shift: int, downsample: int, direction: str) -> NDArray[np.bool_]:
    """Which codes differ, (B, h, w), between two views (B, g, g) of the same images, the second's window `shift` pixels further.

    The grids are aligned by whole codes: a window that lies by w = round(shift / downsample) codes further shows at cell
    (i, j) what the first view shows w cells on. Only cells that both views hold are compared; a shift of whole codes leaves
    the pixels under a code as they were, and what changes then is context alone.
    """
    whole = round(shift / downsample)
    rows, columns = (whole * step for step in DIRECTIONS[direction])
    height, width = first.shape[1] - rows, first.shape[2] - columns
    return first[:, rows:, columns:] != second[:, :height, :width]

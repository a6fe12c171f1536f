"""LlamaGen's ten crops: four corners, centre, and the mirror image of each."""

from __future__ import annotations

import numpy as np

from star.data.pixels import Images
from star.spec.images import DataSpec

NUM_VIEWS = 10
CENTER = 4
"""Which of the ten is the plain centre crop."""


def sides_before_crop(spec: DataSpec) -> list[int]:
    """Sides in pixels of the images that crops are cut from, one for each crop range."""
    return [int(spec.image_size * crop_range) for crop_range in spec.crop_ranges]


def ten_crop(images: Images, size: int) -> Images:
    """(B, S, S, C) -> (B, 10, size, size, C): top left, top right, bottom left, bottom right, centre, then mirrored."""
    far, middle = images.shape[1] - size, round((images.shape[1] - size) / 2)
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    crops = np.stack([images[:, top : top + size, left : left + size] for top, left in corners], axis=1)
    return np.concatenate([crops, crops[..., ::-1, :]], axis=1)


def center(images: Images, size: int) -> Images:
    """(B, S, S, C) -> (B, size, size, C): the centre crop alone."""
    start = round((images.shape[1] - size) / 2)
    return images[:, start : start + size, start : start + size]

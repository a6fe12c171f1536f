"""LlamaGen's ten crops: four corners, centre, and the mirror image of each."""

from __future__ import annotations

import numpy as np

from star.data.pixels import Images
from star.pipeline.config.dataset import DataSpec

FIRST_ORDER = (0, 1, 2, 3, 4, 6, 5, 8, 7, 9)
"""Order of `ten_crop`'s views if `DataSpec.first_view_order` is set."""
CENTER = 4
"""Index of the plain centre crop among the ten views."""


def sides_before_crop(spec: DataSpec) -> list[int]:
    """Sides in pixels of the images that crops are cut from, one for each crop range."""
    return [int(spec.image_size * crop_range) for crop_range in spec.crop_ranges]


def ten_crop(images: Images, size: int) -> Images:
    """(B, S, S, C) -> (B, 10, size, size, C): the ten crops in the order of torchvision's TenCrop.

    Top left, top right, bottom left, bottom right, centre, then those five of the mirrored image. Views 5 to 8 are the
    mirrored views 1, 0, 3, 2.
    """
    return np.concatenate([_five(images, size), _five(images[..., ::-1, :], size)], axis=1)


def _five(images: Images, size: int) -> Images:
    far, middle = images.shape[1] - size, round((images.shape[1] - size) / 2)
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    return np.stack([images[:, top : top + size, left : left + size] for top, left in corners], axis=1)


def ordered_views(images: Images, spec: DataSpec) -> Images:
    """(B, S, S, C) -> (B, 10, image_size, image_size, C): the ten crops in the order of this data set's codes."""
    crops = ten_crop(images, spec.image_size)
    return crops[:, FIRST_ORDER] if spec.first_view_order else crops


def center(images: Images, size: int) -> Images:
    """(B, S, S, C) -> (B, size, size, C): the centre crop alone."""
    start = round((images.shape[1] - size) / 2)
    return images[:, start : start + size, start : start + size]

"""Weights for Inception that anybody can make: the published file is 96 MB and not ours to ship."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from star.evaluate.inception import InceptionV3


def seeded_weights() -> dict[str, Tensor]:
    """A state dict: keys in sorted order, one RandomState(0) drawing standard_normal(shape), scaled so that signals survive.

    The published file has no counters of batches, and so has this.
    """
    draw, state = np.random.RandomState(0), {}
    for key, value in sorted(InceptionV3().state_dict().items()):
        if key.endswith("num_batches_tracked"):
            continue
        a = draw.standard_normal(tuple(value.shape)).astype(np.float32)
        if key.endswith("running_var"):
            a = 1 + 0.1 * np.abs(a)
        elif key.endswith("bn.weight"):
            a = 1 + 0.1 * a
        elif value.ndim == 1:
            a = 0.1 * a
        else:
            a = a * np.float32((2 / np.prod(value.shape[1:])) ** 0.5)
        state[key] = torch.from_numpy(a.astype(np.float32))
    return state

"""Shifted views, and which codes of them differ once the grids are aligned."""

from __future__ import annotations

import numpy as np
import pytest

from star.evaluate.invariance import changed, shifted


@pytest.mark.parametrize("direction", ["right", "down"])
@pytest.mark.parametrize("shift, same", [(0, True), (4, True), (8, True), (1, False), (6, False)])
def test_codes_that_see_nothing_but_their_pixels_survive_whole_shifts(direction: str, shift: int, same: bool) -> None:
    """A tokenizer without context: a code is the sum of its 4 x 4 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (3, 36, 36, 1), dtype=np.uint8)

    def codes(views: np.ndarray) -> np.ndarray:
        return views.astype(np.int64).reshape(3, 7, 4, 7, 4).sum((2, 4))

    first, second = images[:, :28, :28], shifted(images, 28, shift, direction)
    differ = changed(codes(first), codes(second), shift, 4, direction)
    whole = round(shift / 4)
    assert differ.shape == ((3, 7, 7 - whole) if direction == "right" else (3, 7 - whole, 7))
    assert differ.any() != same
    assert same or differ.mean() > 0.9


def test_a_shift_moves_the_window() -> None:
    image = np.arange(36).reshape(1, 6, 6, 1).astype(np.uint8)
    assert shifted(image, 4, 2, "right")[0, 0, 0, 0] == 2
    assert shifted(image, 4, 2, "down")[0, 0, 0, 0] == 12

"""A look at some images of a folder before anything is computed: what would be converted, and what could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from star.data.pixels import decoded_squares
from star.errors import DataError
from star.spec.images import DataSpec

LOOKED_AT = 64
"""Images, spread evenly over all."""


def glance(root: Path, names: Sequence[str], spec: DataSpec) -> list[str]:
    """What some of the images need, a line for each kind; empty where they are as they should be.

    Args:
        names: paths of the images below `root`.
    """
    count = min(LOOKED_AT, len(names))
    kinds: Counter[str] = Counter()
    broken: list[str] = []
    for i in range(count):
        path = root / names[i * len(names) // count]
        said: set[str] = set()
        try:
            decoded_squares(path, spec.channels, str(path), [spec.image_size], spec.enlarge, said.add)
        except DataError as error:
            broken.append(str(error))
        kinds.update(said)
    found = [f"{what} ({number} of {count} looked at)" for what, number in kinds.items()]
    if broken:
        found.append(
            f"{len(broken)} of {count} looked at cannot be used (data.bad_images: skip leaves such out), first {broken[0]}"
        )
    return found

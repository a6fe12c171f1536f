"""A plugin's data set behind the built-in ones' interface. The plan opens it to count images, stages to read them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from star.data.decoding import listing_of
from star.data.pixels import Images, square
from star.data.splits import Found, Split
from star.errors import PASSING, DataError, has_errno
from star.pipeline.config.dataset import DataSpec
from star.pipeline.config.plugged import RunWithPlugins
from star.spec.plugins import part_of
from star.words import shown


class OwnImages:
    """One split of a plugin's data set.

    Raises:
        DataError: its labels are no whole numbers (N,), or no classes.
    """

    def __init__(self, source: Any, split: Split, data: DataSpec) -> None:
        self.source, self.split, self.data = source, split, data
        labels = _asked(data, lambda: np.asarray(source.labels(split)))
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"data.name: {data.name}: labels({split!r}) has shape {labels.shape} and type {labels.dtype}; give (N,) whole numbers."
            )
        wrong = labels[(labels < 0) | (labels >= data.num_classes)]
        if len(wrong):
            raise DataError(
                f"data.num_classes: {data.num_classes}, but {data.name} has an image of class {wrong[0]} in {split}; classes count "
                "from 0."
            )
        self.labels = labels.astype(np.int64)
        self.numbers, self.total = np.arange(len(labels)), len(labels)

    def _image(self, index: int) -> Images:
        what = f"image {index} of {self.split}"
        image: Images = _asked(self.data, lambda: np.asarray(self.source.image(self.split, int(index))), what)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != self.data.channels or 0 in image.shape:
            raise DataError(
                f"data.name: {self.data.name}: image {index} of {self.split} has shape {image.shape} and type {image.dtype}; give "
                f"(H, W, {self.data.channels}) bytes, as data.channels says."
            )
        return image

    def read(self, indices: NDArray[np.int64], side: int, enlarge: str) -> Images:
        return np.stack([square(self._image(index), side, enlarge) for index in indices])

    def read_sides(self, indices: NDArray[np.int64], sides: list[int], enlarge: str) -> list[Images]:
        images = [self._image(index) for index in indices]
        return [np.stack([square(image, side, enlarge) for image in images]) for side in sides]

    def problems(self, indices: NDArray[np.int64]) -> Iterator[str | None]:
        for index in indices:
            try:
                self._image(index)
                yield None
            except DataError as error:
                yield str(error)

    def listing(self) -> str:
        return listing_of([], self.labels)


def own_images(spec: RunWithPlugins, split: Split, folder: Path | None = None) -> OwnImages:
    """Open a split of the plugin's data set that a run names.

    Args:
        folder: the copy of the plugin to import; if None, the folder that the run was planned from.

    Raises:
        DataError: the data set cannot be opened, or does not match the spec.
    """
    plugin, data = spec.source_plugin, spec.data
    assert plugin is not None, "asked of runs that have one"
    place = Path(plugin.folder) if folder is None else folder
    found = part_of(plugin, place, data.name)
    config = found.config.model_validate(getattr(data, data.name).model_dump(mode="json"))
    return OwnImages(_asked(data, lambda: found(config, Path(str(data.path)))), split, data)


def count(spec: RunWithPlugins) -> Found:
    """What the data set holds, for the plan; the first and last image of each split are checked."""
    splits = {split: own_images(spec, split) for split in ("train", "test")}
    broken = ""
    for split in splits.values():
        ends = np.array(sorted({0, len(split.labels) - 1})) if len(split.labels) else np.array([], dtype=np.int64)
        broken = broken or next((problem for problem in split.problems(ends) if problem), "")
    classes = len(set(splits["train"].labels.tolist()))
    train, test = (len(split.labels) for split in splits.values())
    notes = []
    if classes < spec.data.num_classes:
        notes.append(f"data.num_classes is {spec.data.num_classes}, and images to train on have {classes} of them")
    return Found(classes, train, test, spec.data.name, spec.data.name, notes, broken)


def _last_line(error: BaseException) -> str:
    """Where plugin code raised an error, such as `my_data.py:12: `; empty if this file raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "" if last.filename == __file__ else f"{Path(last.filename).name}:{last.lineno}: "


def _asked(data: DataSpec, call: Any, what: str = "") -> Any:
    """Call a plugin's code and return its result; any error becomes a DataError that names the plugin's data set."""
    try:
        return call()
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # plugin code may raise anything
        if has_errno(error, PASSING):
            raise
        raise DataError(
            f"data.name: {data.name} cannot read {what + ' of ' if what else ''}{shown(data.path)}: "
            f"{_last_line(error)}{type(error).__name__}: {error}."
        ) from error

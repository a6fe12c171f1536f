"""Check a sample of a data set's images before anything is computed: what is converted, and what cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from star.data.class_folders import ClassFolders
from star.data.parquet import ParquetImages
from star.data.parquet_files import ParquetFiles
from star.data.pixels import decoded_squares
from star.data.splits import Found
from star.errors import DataError
from star.pipeline.config.dataset import DataSpec

LOOKED_AT = 64
"""Most images in the sample, which is spread evenly over the data set."""
Source = Callable[[int], tuple[object, str]]
"""Number of an image -> its file or encoded bytes, and its name."""


def glance_at_files(folders: ClassFolders, spec: DataSpec) -> Found:
    """What class folders hold, with notes on a sample of their images."""
    found, (train, test, _) = folders.found(), folders.files()
    paths = [folders.tree.root / name for name, _ in (*train, *test)]
    return _looked_at(found, len(paths), lambda i: (paths[i], str(paths[i])), spec)


def glance_at_rows(files: ParquetFiles, spec: DataSpec) -> Found:
    """What parquet files hold, with notes on a sample of their images; all labels are read, once.

    Raises:
        DataError: a column is missing or has the wrong type, a file is damaged, or a label is not a class.
    """
    found = files.found(spec)
    sources = [ParquetImages(files, split, spec, 1) for split in ("train", "test")]
    labels = np.concatenate([source.labels for source in sources])
    used = len(np.unique(labels[(labels >= 0) & (labels < spec.num_classes)]))
    if used < spec.num_classes:
        found.notes.append(f"data.num_classes is {spec.num_classes}, and rows have {used} of them")
    for source, said in zip(sources, ("is trained on", "is held out"), strict=True):
        absent = sorted(set(np.unique(labels).tolist()) - set(source.labels.tolist()))
        absent = [label for label in absent if 0 <= label < spec.num_classes]
        if absent and len(source.labels):
            found.notes.append(
                f"no row of class {absent[0]} {said}{f' (nor of {len(absent) - 1} more)' * (len(absent) > 1)}"
            )
    found.classes = used
    first = len(sources[0].labels)
    return _looked_at(found, len(labels), lambda i: sources[i >= first].source(i - first * (i >= first)), spec)


def _looked_at(found: Found, total: int, source: Source, spec: DataSpec) -> Found:
    count = min(LOOKED_AT, total)
    kinds: Counter[str] = Counter()
    broken: list[str] = []
    for i in range(count):
        said: set[str] = set()
        try:
            content, name = source(i * total // count)
            decoded_squares(content, spec.channels, name, [spec.image_size], spec.enlarge, said.add)  # type: ignore[arg-type]
        except DataError as error:
            broken.append(str(error))
        kinds.update(said)
    found.notes += [f"{what} ({number} of {count} looked at)" for what, number in kinds.items()]
    if broken:
        found.broken = f"{len(broken)} of {count} images looked at cannot be used, first {broken[0]}"
        found.notes.append(found.broken.rstrip("."))
    return found

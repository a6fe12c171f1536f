"""Image data sets as Hugging Face stores them: parquet files with a column of encoded images and one of class numbers."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from star.data.pixels import Images, decoded
from star.data.sources import VALIDATION, Decoded, Split, is_held_out
from star.errors import DataError
from star.spec.images import DataSpec

GROUPS = 16
"""Row groups held in memory; images are read in order, so few are enough."""


class ParquetImages(Decoded):
    """Rows of the split's files. Without files that begin with val or test, a share of the rows is held out by hash.

    Raises:
        DataError: a column is missing, a file is damaged, or (unless bad images are skipped) a label is no class.
    """

    def __init__(self, files: list[Path], split: Split, spec: DataSpec, threads: int) -> None:
        super().__init__(spec, threads)
        self.image_column = spec.image_column
        # ImageNet's own test files have no labels: with validation files there, they are nobody's
        by_kind = [[path for path in files if path.name.startswith(kind)] for kind in VALIDATION]
        held_out = next((found for found in by_kind if found), [])
        train = [path for path in files if not path.name.startswith(VALIDATION)]
        self.files = files if not held_out else held_out if split == "test" else train
        places, labels = [], []
        for number, path in enumerate(self.files):
            column, groups = _labels(path, spec)
            row = 0
            for group, size in enumerate(groups):
                for inside in range(size):
                    if held_out or is_held_out(f"{path.name}:{row}", spec.test_fraction) == (split == "test"):
                        places.append((number, group, inside))
                        labels.append(column[row])
                    row += 1
        self.places = np.array(places, dtype=np.int64).reshape(-1, 3)
        self.labels = np.array(labels, dtype=np.int64)
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= spec.num_classes))
        if len(wrong) and spec.bad_images == "error":
            first = int(wrong[0])
            raise DataError(
                f"{self._name(first)}: {spec.label_column} is {self.labels[first]}, but data.num_classes is {spec.num_classes}; "
                "write the right number, or bad_images: skip."
            )
        self.lock = Lock()
        self._group = lru_cache(maxsize=GROUPS)(self._read_group)

    def load(self, index: int) -> Images:
        number, group, inside = (int(part) for part in self.places[index])
        with self.lock:
            cell = self._group(number, group)[inside].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise DataError(f"{self._name(index)}: {self.image_column} holds no encoded image.")
        return decoded(content, self.channels, self._name(index))

    def _name(self, index: int) -> str:
        number, group, inside = (int(part) for part in self.places[index])
        return f"{self.files[number]}, row group {group}, row {inside}"

    def _read_group(self, number: int, group: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.files[number]).read_row_group(group, columns=[self.image_column]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.files[number]}: row group {group} cannot be read: {error}.") from None


def _labels(path: Path, spec: DataSpec) -> tuple[list[int], list[int]]:
    """The labels of a file (-1 for none), and the sizes of its row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        for field in ("image_column", "label_column"):
            if getattr(spec, field) not in names:
                raise DataError(
                    f"data.{field}: {path} has no column {getattr(spec, field)!r}; it has {', '.join(names)}."
                )
        column = file.read(columns=[spec.label_column]).column(0).to_pylist()
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}.") from None
    return [value if isinstance(value, int) else -1 for value in column], groups

"""Data sets as Hugging Face stores them: parquet files with a column of encoded images and one of class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from star.data.decoding import Decoded
from star.data.parquet_files import ParquetFiles, opened
from star.data.splits import Split, is_held_out
from star.errors import DataError
from star.pipeline.config.dataset import DataSpec
from star.words import shown

GROUPS = 16
"""Row groups held in memory; images are read in order, so few are enough."""


class ParquetImages(Decoded):
    """One split of the images in parquet files.

    Raises:
        DataError: a column is missing or holds no class numbers, a file is damaged, or (unless bad images are skipped)
            a label is not a class.
    """

    def __init__(self, files: ParquetFiles, split: Split, spec: DataSpec, threads: int) -> None:
        super().__init__(spec, threads)
        self.image_column = spec.image_column
        self.files, whole = files.of_split(split)
        places, labels, numbers, number_of = [], [], [], 0
        for number, path in enumerate(self.files):
            column, groups = _labels(path, spec)
            row = 0
            for group, size in enumerate(groups):
                for inside in range(size):
                    if whole or is_held_out(f"{path.name}:{row}", spec.test_fraction) == (split == "test"):
                        places.append((number, group, inside))
                        labels.append(column[row])
                        numbers.append(number_of)
                    row += 1
                    number_of += 1
        self.places = np.array(places, dtype=np.int64).reshape(-1, 3)
        most = np.iinfo(np.int64).max  # an unsigned label may be larger, and is no class either
        self.labels = np.array([-1 if label is None else min(label, most) for label in labels], dtype=np.int64)
        self.numbers, self.total = np.array(numbers, dtype=np.int64), number_of
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= spec.num_classes))
        if len(wrong) and spec.bad_images == "error":
            first = int(wrong[0])
            label = "null" if labels[first] is None else labels[first]
            raise DataError(
                f"{self._name(first)}: {spec.label_column} is {label}, and the classes are 0 to data.num_classes - 1 = "
                f"{spec.num_classes - 1} ({len(wrong)} of {len(labels)} rows are like it). Without labels it can be no {split} "
                "split; single bad rows are left out with bad_images: skip."
            )
        self.lock = Lock()
        self._group = lru_cache(maxsize=GROUPS)(self._read_group)

    def source(self, index: int) -> tuple[Path | bytes, str]:
        number, group, inside = (int(part) for part in self.places[index])
        name = self._name(index)
        with self.lock:
            cell = self._group(number, group)[inside].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if content is None and isinstance(cell, dict) and cell.get("path"):
            raise DataError(
                f"{name}: {self.image_column} holds only the path {shown(cell['path'])}, not the image; write the data set with its images "
                "in it (of Hugging Face's: embed_external_files)."
            )
        if content is None:
            raise DataError(f"{name}: {self.image_column} is null.")
        if not isinstance(content, bytes):
            raise DataError(f"{name}: {self.image_column} holds no encoded image.")
        return content, name

    def names(self) -> Sequence[str]:
        return [f"{self.files[number].name}:{group}:{inside}" for number, group, inside in self.places.tolist()]

    def _name(self, index: int) -> str:
        number, group, inside = (int(part) for part in self.places[index])
        return f"{shown(self.files[number])}, row group {group}, row {inside}"

    def _read_group(self, number: int, group: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.files[number]) as file:
                return file.read_row_group(group, columns=[self.image_column]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{shown(self.files[number])}: row group {group} cannot be read: {error}.") from None


def _labels(path: Path, spec: DataSpec) -> tuple[list[int | None], list[int]]:
    """The labels of a file, and the sizes of its row groups."""
    import pyarrow as pa

    with opened(path, spec) as file:
        try:
            column = file.read(columns=[spec.label_column]).column(0).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{shown(path)}: cannot be read as parquet: {error}.") from None
        return column, [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]

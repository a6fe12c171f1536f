"""Image data sets as Hugging Face stores them: parquet files with a column of encoded images and one of class numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from star.data.decoding import Decoded
from star.data.folders import Tree
from star.data.splits import WHOLE, Found, Split, Splits, choose, is_held_out, role
from star.errors import DataError
from star.spec.images import DataSpec
from star.words import shown

GROUPS = 16
"""Row groups held in memory; images are read in order, so few are enough."""
SHARD = re.compile(r"(.*?)[-_]?(\d+)-of-(\d+)\.parquet", re.IGNORECASE)


@dataclass(frozen=True)
class ParquetFiles:
    """The files of a data set, in the order of their names, and which split each is of."""

    root: Path
    files: list[str]
    """Paths below the root."""
    splits: Splits
    parts: dict[str, list[str]]
    """Name of a part -> its files."""

    @classmethod
    def of(cls, root: Path, spec: DataSpec) -> ParquetFiles:
        """How the folder is to be read.

        Raises:
            DataError: there are no files, some are missing, or it is not clear which are to be trained on.
        """
        return cls.from_tree(Tree.of(root, (".parquet",)), spec)

    @classmethod
    def from_tree(cls, tree: Tree, spec: DataSpec) -> ParquetFiles:
        """The same for a folder that was looked into."""
        where, files = shown(tree.root), sorted(tree.states)
        if not files:
            raise DataError(f"data.path: {where} holds no *.parquet; give the folder that has train-*.parquet.")
        _check_shards(files, where)
        parts: dict[str, list[str]] = defaultdict(list)
        for name in files:
            parts[_part(name)].append(name)
        splits = Splits() if spec.train_split == WHOLE else choose(parts, spec, where)
        return cls(tree.root, files, splits, dict(parts))

    def of_split(self, split: Split) -> tuple[list[Path], bool]:
        """Its files, and whether all of their rows are of it."""
        if self.splits.train is None:
            return [self.root / name for name in self.files], False
        part = self.splits.train if split == "train" or self.splits.test is None else self.splits.test
        return [self.root / name for name in self.parts[part]], self.splits.test is not None

    def found(self, spec: DataSpec) -> Found:
        """What is there, from the files' ends and their label columns."""
        counts = {}
        for split in ("train", "test"):
            files, whole = self.of_split(split)
            if not whole:
                rows = [(path.name, _rows(path, spec)) for path in files]
                held = (
                    is_held_out(f"{name}:{row}", spec.test_fraction) for name, count in rows for row in range(count)
                )
                counts["test"] = sum(held)
                counts["train"] = sum(count for _, count in rows) - counts["test"]
                break
            counts[split] = sum(_rows(path, spec) for path in files)
        names = [shown(self.splits.train or "the folder"), shown(self.splits.test or "a share by hash")]
        return Found(spec.num_classes, counts["train"], counts["test"], names[0], names[1], list(self.splits.notes))


def _part(name: str) -> str:
    """What says the split of a file: the letters that its name, or else its folder's, begins with."""
    steps = name.split("/")
    words = [re.match(r"[A-Za-z]*", step) for step in reversed(steps)]
    found = [word[0] for word in words if word and word[0]]
    return next((word for word in found if role(word)), found[0] if found else name)


def _check_shards(files: Sequence[str], where: str) -> None:
    """That files called ...-of-N are N."""
    sets: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for name in files:
        match = SHARD.fullmatch(name)
        if match:
            sets[match[1]][int(match[3])].add(int(match[2]))
    for prefix, counts in sets.items():
        if len(counts) > 1:
            some = " and ".join(f"-of-{count:05d}" for count in sorted(counts))
            raise DataError(
                f"data.path: {where} has files of {shown(prefix)} that were cut in different ways ({some}), so their images would "
                "come twice; keep one set."
            )
        count, there = next(iter(counts.items()))
        absent = sorted(set(range(count)) - there)
        if absent and max(there) < count:
            raise DataError(
                f"data.path: {where} lacks {len(absent)} of the {count} files of {shown(prefix)}, first "
                f"{shown(prefix)}-{absent[0]:05d}-of-{count:05d}.parquet; fetch what is missing."
            )


class ParquetImages(Decoded):
    """Rows of a split's files.

    Raises:
        DataError: a column is missing or holds no class numbers, a file is damaged, or (unless bad images are skipped) a label
            is no class.
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
        self.labels = np.array([-1 if label is None else label for label in labels], dtype=np.int64)
        self.numbers, self.total = np.array(numbers, dtype=np.int64), number_of
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= spec.num_classes))
        if len(wrong) and spec.bad_images == "error":
            first = int(wrong[0])
            label = "null" if labels[first] is None else self.labels[first]
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


def _opened(path: Path, spec: DataSpec) -> Any:
    """The file, its columns checked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown(path)}: cannot be read as parquet: {error}.") from None
    names = file.schema_arrow.names
    for field in ("image_column", "label_column"):
        if getattr(spec, field) not in names:
            raise DataError(
                f"data.{field}: {shown(path)} has no column {getattr(spec, field)!r}; it has {', '.join(names)}."
            )
    kind = file.schema_arrow.field(spec.label_column).type
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"data.label_column: {shown(path)}: {spec.label_column} holds {kind}, and a class is a whole number from 0; give a column "
            "of such, or number the names of the classes in their order."
        )
    return file


def _rows(path: Path, spec: DataSpec) -> int:
    """How many, without reading them; where the file says how large its labels are, that they are classes."""
    with _opened(path, spec) as file:
        for group in range(file.num_row_groups):
            columns = file.metadata.row_group(group)
            for i in range(columns.num_columns):
                column = columns.column(i)
                if column.path_in_schema == spec.label_column and column.is_stats_set and column.statistics.has_min_max:
                    _check_range(path, spec, int(column.statistics.min), int(column.statistics.max))
        return int(file.metadata.num_rows)


def _check_range(path: Path, spec: DataSpec, least: int, most: int) -> None:
    if spec.bad_images == "error" and (least < 0 or most >= spec.num_classes):
        raise DataError(
            f"data.num_classes: {spec.num_classes}, but {spec.label_column} of {shown(path)} goes from {least} to {most}, and classes are "
            "0 to num_classes - 1. Rows of label -1 have none: such files can be no split; single bad rows are left out with "
            "bad_images: skip."
        )


def _labels(path: Path, spec: DataSpec) -> tuple[list[int | None], list[int]]:
    """The labels of a file, and the sizes of its row groups."""
    import pyarrow as pa

    with _opened(path, spec) as file:
        try:
            column = file.read(columns=[spec.label_column]).column(0).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{shown(path)}: cannot be read as parquet: {error}.") from None
        return column, [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]

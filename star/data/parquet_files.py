"""Parquet files of images as Hugging Face stores them: which exist, the split of each, and a check of their columns."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star.data.folders import Tree
from star.data.splits import WHOLE, Found, Split, Splits, choose, is_held_out, role
from star.errors import DataError
from star.pipeline.config.dataset import DataSpec
from star.sniff import misnamed
from star.words import counted, shown

SHARD = re.compile(r"(.*?)[-_]?(\d+)-of-(\d+)([-_][0-9a-f]+)?\.parquet", re.IGNORECASE)


@dataclass(frozen=True)
class ParquetFiles:
    """The files of a data set, sorted by name, and the split of each."""

    root: Path
    files: list[str]
    """Paths below the root."""
    splits: Splits
    parts: dict[str, list[str]]
    """Name of a part -> its files."""

    @classmethod
    def of(cls, root: Path, spec: DataSpec) -> ParquetFiles:
        """List the parquet files in a folder and decide which split each belongs to.

        Raises:
            DataError: there are no files, some are missing, or it is ambiguous which to train on.
        """
        return cls.from_tree(Tree.of(root, (".parquet",)), spec)

    @classmethod
    def from_tree(cls, tree: Tree, spec: DataSpec) -> ParquetFiles:
        """As `of`, for a folder that is already scanned."""
        where, files = shown(tree.root), sorted(tree.everything())
        if not files:
            raise DataError(f"data.path: {where} holds no *.parquet; give the folder that has train-*.parquet.")
        _check_shards(files, where)
        groups: dict[str, list[str]] = defaultdict(list)
        for name in files:
            groups[_group(name)].append(name)
        words = {group: _word(group) for group in groups}
        alone = [word for word in words.values() if list(words.values()).count(word) == 1]
        parts = {words[group] if words[group] in alone else group: found for group, found in groups.items()}
        roles = {name: role(words.get(name, name)) for name in parts}
        if spec.train_split == WHOLE:
            splits = Splits()
        else:
            splits = choose(roles, spec, where)
            if splits.train is None and len(parts) > 1:
                raise DataError(
                    f"data.train_split: {where} has files of {', '.join(map(shown, sorted(parts)[:5]))}, and nothing says which are to be "
                    f"trained on; name one, or {WHOLE} for all of them together."
                )
        lost = [name for name in tree.lost if name.lower().endswith(".parquet")]
        if lost:
            raise DataError(
                f"data.path: {where}: {counted(len(lost), 'link')} that should be a parquet file and leads nowhere, first "
                f"{shown(lost[0])}: fetch what it led to, or take it out."
            )
        splits.notes.extend(tree.notes())
        return cls(tree.root, files, splits, parts)

    def of_split(self, split: Split) -> tuple[list[Path], bool]:
        """The files of a split, and whether all of their rows belong to it; otherwise a hash splits the rows."""
        if self.splits.train is None:
            return [self.root / name for name in self.files], False
        part = self.splits.train if split == "train" or self.splits.test is None else self.splits.test
        return [self.root / name for name in self.parts[part]], self.splits.test is not None

    def found(self, spec: DataSpec) -> Found:
        """What the data set holds, from the files' footers alone.

        Raises:
            DataError: as `opened`, or a label is no class.
        """
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


def _group(name: str) -> str:
    """The name shared by the shards of one part: their folder, and their file name without the shard number."""
    folder, _, file = name.rpartition("/")
    match = SHARD.fullmatch(file)
    stem = match[1] if match else re.sub(r"[-_.]*\d*$", "", file[: -len(".parquet")])
    return f"{folder}/{stem}".strip("/") or "files"


def _word(group: str) -> str:
    """The word that names the split of a group: the leading letters of its file name, or else of a folder's name."""
    found = [match[0] for step in reversed(group.split("/")) if (match := re.match(r"[A-Za-z]+", step))]
    return next((word for word in found if role(word)), found[0] if found else group)


def _check_shards(files: Sequence[str], where: str) -> None:
    """Raise DataError unless there are N of the files called ...-of-N, and only one such set per prefix."""
    sets: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    called: dict[tuple[str, int, int], str] = {}
    for name in files:
        match = SHARD.fullmatch(name)
        if match:
            shard = (match[1], int(match[3]), int(match[2]))
            # the hub adds fingerprints to names, and leaves former files beside new ones
            if called.setdefault(shard, name) != name:
                raise DataError(
                    f"data.path: {where} has file {shard[2]} of {shard[1]} of {shown(match[1])} twice ({shown(called[shard])} and "
                    f"{shown(name)}), so its images would come twice; keep one."
                )
            sets[match[1]][int(match[3])].add(int(match[2]))
    for prefix, counts in sets.items():
        if len(counts) > 1:
            some = " and ".join(f"-of-{count:05d}" for count in sorted(counts))
            raise DataError(
                f"data.path: {where} has files of {shown(prefix)} that were cut in different ways ({some}), so their images would "
                "come twice; keep one set."
            )
        count, there = next(iter(counts.items()))
        first = 1 if 0 not in there and count in there else 0  # some data sets number shards from 1
        absent = sorted(set(range(first, count + first)) - there)
        if absent:
            raise DataError(
                f"data.path: {where} lacks {len(absent)} of the {count} files of {shown(prefix)}, first "
                f"{shown(prefix)}-{absent[0]:05d}-of-{count:05d}.parquet; fetch what is missing."
            )


def opened(path: Path, spec: DataSpec) -> Any:
    """Open a parquet file and check its image and label columns.

    Raises:
        DataError: it is no parquet file, or a column is missing, doubled or of the wrong type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{shown(path)}: cannot be read as parquet: {misnamed(path) or str(error).rstrip('.')}."
        ) from None
    for name in (spec.image_column, spec.label_column):
        if names.count(name) > 1:
            raise DataError(f"{shown(path)}: has {names.count(name)} columns {name!r}; keep one.")
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
    image = file.schema_arrow.field(spec.image_column).type
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image = image.field("bytes").type
    if pa.types.is_dictionary(image):
        image = image.value_type
    of_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)
    if not any(is_such(image) for is_such in of_bytes):
        raise DataError(
            f"data.image_column: {shown(path)}: {spec.image_column} holds {image}, and an image is encoded bytes, or a struct with such "
            "a field `bytes`; give a column of those."
        )
    return file


def _rows(path: Path, spec: DataSpec) -> int:
    """The number of rows, from the footer. If that has the range of the labels, also checks that they are classes."""
    with opened(path, spec) as file:
        try:
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
            columns = [group.column(i) for group in groups for i in range(group.num_columns)]
            labels = [one for one in columns if one.path_in_schema == spec.label_column and one.is_stats_set]
            ranges = [
                (int(one.statistics.min), int(one.statistics.max)) for one in labels if one.statistics.has_min_max
            ]
        except (OSError, ValueError, TypeError) as error:  # names and numbers of a damaged footer
            raise DataError(f"{shown(path)}: cannot be read as parquet: {str(error).rstrip('.')}.") from None
        for least, most in ranges:
            _check_range(path, spec, least, most)
        return int(file.metadata.num_rows)


def _check_range(path: Path, spec: DataSpec, least: int, most: int) -> None:
    if spec.bad_images == "error" and (least < 0 or most >= spec.num_classes):
        raise DataError(
            f"data.num_classes: {spec.num_classes}, but {spec.label_column} of {shown(path)} goes from {least} to {most}, and classes are "
            "0 to num_classes - 1. Rows of label -1 have none: such files can be no split; single bad rows are left out with "
            "bad_images: skip."
        )

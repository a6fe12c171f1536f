"""A large array on disk that is filled shard by shard, by several processes, over several attempts.

NAME.npy        the whole array, memory-mapped; its shape is known before the first shard is there
NAME.shards/N   written after shard N is on disk: its CRC-32
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from star.errors import DataError
from star.rundir import write_bytes, write_json

ROWS = 500
"""Rows per shard: what a killed process may have to compute again."""


class ShardedArray:
    """The array called `name` in a folder that is kept between attempts.

    Args:
        shape: of the whole array; the first dimension is split into shards of ROWS rows.
    """

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.path = folder / f"{name}.npy"
        self.marks = folder / f"{name}.shards"
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.count = -(-shape[0] // ROWS)

    def prepare(self) -> None:
        """Create the file, or unmark damaged shards in an existing one. One process does it before the others start."""
        self.marks.mkdir(parents=True, exist_ok=True)
        try:
            array = self._open("r")
        except (OSError, ValueError):  # not there, or cut short
            shutil.rmtree(self.marks)
            self.marks.mkdir()
            np.lib.format.open_memmap(self.path, mode="w+", dtype=self.dtype, shape=self.shape).flush()
            _reserve(self.path)
            return
        for shard in self._done():
            if self._mark(shard) != _checksum(array[self.rows(shard)]):
                (self.marks / str(shard)).unlink()

    def rows(self, shard: int) -> slice:
        """The rows of a shard, as a slice of the first dimension."""
        return slice(shard * ROWS, min((shard + 1) * ROWS, self.shape[0]))

    def missing(self, index: int, count: int) -> Iterator[tuple[int, slice]]:
        """Iterate over (shard, rows) of the shards that process `index` of `count` still has to write."""
        done = self._done()
        return ((shard, self.rows(shard)) for shard in range(index, self.count, count) if shard not in done)

    def write(self, shard: int, values: NDArray[Any]) -> None:
        """Put a shard on disk, then mark it as done."""
        array = self._open("r+")
        array[self.rows(shard)] = values
        array.flush()
        write_bytes(self.marks / str(shard), f"{_checksum(array[self.rows(shard)])}\n".encode())

    def finished_rows(self) -> int:
        """Number of rows that all processes together have written."""
        return min(len(self._done()) * ROWS, self.shape[0])

    def finish(self, target: Path) -> None:
        """Link (or copy) the complete array into another folder, and write the checksums of its shards there.

        Raises:
            DataError: shards are missing.
        """
        absent = sorted(set(range(self.count)) - self._done())
        if absent:
            raise DataError(f"{self.path}: {len(absent)} of {self.count} shards are missing, first {absent[0]}.")
        target.mkdir(parents=True, exist_ok=True)
        try:  # it stays here too, until the job's result is written
            os.link(self.path, target / self.path.name)
        except OSError:  # a file system without hard links
            shutil.copyfile(self.path, target / self.path.name)
        sums = [self._mark(shard) for shard in range(self.count)]
        write_json(target / f"{self.path.stem}.json", {"rows_per_shard": ROWS, "crc32": sums})

    def _open(self, mode: Any) -> np.memmap[Any, np.dtype[Any]]:
        array = np.lib.format.open_memmap(self.path, mode=mode)
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(f"{array.dtype} {array.shape} in place of {self.dtype} {self.shape}")
        return array

    def _done(self) -> set[int]:
        return {int(path.name) for path in self.marks.iterdir() if path.name.isdecimal()}

    def _mark(self, shard: int) -> int:
        return int((self.marks / str(shard)).read_text())


def damaged_shards(path: Path) -> list[int]:
    """Numbers of the shards of a finished array whose content does not match the CRC-32 in the .json beside it.

    Raises:
        OSError, ValueError, KeyError: one of the two files is missing or damaged.
    """
    known = json.loads(path.with_suffix(".json").read_text())
    array, size = np.load(path, mmap_mode="r"), known["rows_per_shard"]
    return [
        shard
        for shard, expected in enumerate(known["crc32"])
        if _checksum(array[shard * size : (shard + 1) * size]) != expected
    ]


def _reserve(path: Path) -> None:
    """Take the file's room on the disk now: writing a page of a sparse file for which there is none would kill the process.

    Raises:
        OSError: the disk is full.
    """
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                path.unlink()  # or the next attempt would take it for reserved
                raise OSError(error.errno, error.strerror, str(path)) from None


def _checksum(rows: NDArray[Any]) -> int:
    return zlib.crc32(rows.tobytes())

"""Arrays filled shard by shard: what was there stays, what is damaged is made again, and nothing half-done is used."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.data.codes import LEFT_OUT, CodeStore
from star.data.sharded import ROWS, ShardedArray, damaged_shards
from star.errors import DataError
from tests.helpers import write_store

CONTENT = np.random.default_rng(0).integers(0, 60_000, (2 * ROWS + 7, 3), dtype=np.uint16)


def array_in(folder: Path) -> ShardedArray:
    array = ShardedArray(folder, "codes", CONTENT.shape, np.uint16)
    array.prepare()
    return array


def fill(array: ShardedArray, index: int = 0, count: int = 1, at_most: int = 99) -> list[int]:
    written = []
    for shard, rows in list(array.missing(index, count))[:at_most]:
        array.write(shard, CONTENT[rows])
        written.append(shard)
    return written


def test_several_processes_and_attempts_fill_it_once(tmp_path: Path) -> None:
    assert fill(array_in(tmp_path), at_most=1) == [0]
    array = array_in(tmp_path)
    assert array.finished_rows() == ROWS
    with pytest.raises(DataError, match="2 of 3 shards are missing, first 1"):
        array.finish(tmp_path / "out")
    assert fill(array, 0, 2) == [2] and fill(array, 1, 2) == [1]
    array.finish(tmp_path / "out")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "codes.npy"), CONTENT)
    assert damaged_shards(tmp_path / "out" / "codes.npy") == []


@given(st.integers(0, CONTENT.nbytes - 1), st.booleans())
@settings(max_examples=20, deadline=None)
def test_damage_is_found_wherever_it_is(tmp_path_factory: pytest.TempPathFactory, place: int, cut: bool) -> None:
    """A flipped byte costs its shard, a truncated file everything; a finished store refuses to be used."""
    folder = tmp_path_factory.mktemp("damage")
    array = array_in(folder)
    fill(array)
    array.finish(folder / "out")
    content = bytearray(array.path.read_bytes())
    start = len(content) - CONTENT.nbytes
    content[start + place] ^= 1
    array.path.write_bytes(content[: start + place] if cut else content)
    shard = place // (ROWS * 6)
    if not cut:
        assert damaged_shards(folder / "out" / "codes.npy") == [shard]  # the same file
    assert fill(array_in(folder)) == ([0, 1, 2] if cut else [shard])
    np.testing.assert_array_equal(np.load(array.path), CONTENT)


def test_a_store_knows_what_was_left_out_and_what_is_damaged(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 32, (ROWS + 20, 10, 9))
    labels = np.arange(len(codes)) % 10
    labels[[3, 7]] = LEFT_OUT
    store = write_store(tmp_path, codes, labels)
    assert len(store) == len(codes) - 2 and (store.labels >= 0).all()
    np.testing.assert_array_equal(
        store.gather(np.array([2, 3]), np.array([[0, 9], [4, 4]])), codes[[[2], [4]], [[0, 9], [4, 4]]]
    )
    np.testing.assert_array_equal(store.center(2, 5), codes[[2, 4, 5], 4])
    store.verify()

    content = bytearray((tmp_path / "codes.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "codes.npy").write_bytes(content)
    with pytest.raises(DataError, match="1 shards are damaged, first 1"):
        CodeStore(tmp_path).verify()
    (tmp_path / "codes.npy").write_bytes(content[:-9])
    with pytest.raises(DataError, match="no code store"):
        CodeStore(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    """A page of a sparse file for which there is no room would kill the process."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=True)
    try:
        array = ShardedArray(tmp_path, "images", (4000, 1000), np.uint8)
        with pytest.raises(OSError, match="No space left") as found:
            array.prepare()
        assert found.value.errno == errno.ENOSPC and not array.path.exists()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)

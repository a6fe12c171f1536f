"""Fashion-MNIST from a folder: whole and checked, or not at all."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from star.data import fetch
from star.errors import DataError
from tests.helpers import star_exp


def test_from_a_folder_packed_or_not(images: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for i, name in enumerate(fetch.SHA256):
        if i % 2:
            shutil.copy(images / name, source / name)
        else:
            (source / f"{name}.gz").write_bytes(gzip.compress((images / name).read_bytes(), 1))
    assert fetch.fashion_mnist(tmp_path / "here", source) == str(source)
    assert all((tmp_path / "here" / name).read_bytes() == (images / name).read_bytes() for name in fetch.SHA256)
    assert fetch.fashion_mnist(tmp_path / "here") == "already there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "source"]


def test_what_others_put_there_is_checked(images: Path, tmp_path: Path) -> None:
    """MNIST's files have the same names and sizes."""
    here = tmp_path / "here"
    here.mkdir()
    for name in fetch.SHA256:
        shutil.copy(images / name, here / name)
    labels = here / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x07")
    with pytest.raises(
        DataError, match="t10k-labels-idx1-ubyte: is not Fashion-MNIST's, its SHA-256 differs; take it away"
    ):
        fetch.fashion_mnist(here, images)
    labels.write_bytes(b"")
    assert not fetch.is_complete(here)
    assert fetch.fashion_mnist(here, images) == str(images) and fetch.is_complete(here)
    fetch.check(here)


@pytest.mark.parametrize("damage", ["cut", "damaged", "changed", "missing"])
def test_damaged_files_leave_nothing_behind(images: Path, tmp_path: Path, damage: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in fetch.SHA256:
        shutil.copy(images / name, source / name)
    labels = source / "t10k-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.unlink()
    if damage == "cut":
        Path(f"{labels}.gz").write_bytes(gzip.compress(content)[:500])
    elif damage == "damaged":
        packed = gzip.compress(content)
        Path(f"{labels}.gz").write_bytes(packed[:300] + b"\xff" * 300 + packed[600:])
    elif damage == "changed":
        labels.write_bytes(content[:-1] + b"\x07")
    with pytest.raises(DataError, match=r"Three ways: .*--from FOLDER.*Debian's package.*the network"):
        fetch.fashion_mnist(tmp_path / "here", source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_when_no_way_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get
    monkeypatch.setattr(fetch, "ORIGIN", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match="apt-get and dpkg-deb are not on this machine; origin: .*refused"):
        fetch.fashion_mnist(tmp_path / "here")


def test_the_command_says_it_in_one_sentence(tmp_path: Path) -> None:
    done = star_exp("data", "fetch", "fashion-mnist", "--from", tmp_path / "nowhere", home=tmp_path / "home")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Fashion-MNIST could not be fetched") and done.stderr.count("\n") == 1

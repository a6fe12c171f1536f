"""Fetch Fashion-MNIST's 70,000 images: from a given folder, else from Debian's package or the original address; check, then rename."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tempfile
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

from star.errors import DataError

SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of the unpacked files; the packed ones differ between mirrors."""
SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
"""Bytes of the unpacked files."""
DEBIAN_PACKAGE = "dataset-fashion-mnist"
ORIGIN = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


def fashion_mnist(target: Path, folder: Path | None = None) -> str:
    """Put the four files of Fashion-MNIST into `target` and return where they came from.

    Args:
        folder: take them from here (packed or not); otherwise Debian's package and then the original address are tried.

    Raises:
        DataError: no place has all four files undamaged; the message names the three ways.
    """
    if is_complete(target):
        check(target)
        return "already there"
    ways: list[tuple[str, Callable[[Path], Path]]] = (
        [("folder", lambda _: _existing(folder))]
        if folder
        else [("Debian package", _from_debian), ("origin", _from_origin)]
    )
    failures = []
    target.parent.mkdir(parents=True, exist_ok=True)
    for name, way in ways:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
            try:
                _unpack(way(Path(scratch)), Path(scratch) / "unpacked", target)
            except (DataError, OSError, subprocess.SubprocessError) as error:
                failures.append(
                    f"{name}: {str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}"
                )
                continue
        return str(folder) if folder else DEBIAN_PACKAGE if way is _from_debian else ORIGIN
    raise DataError(
        f"Fashion-MNIST could not be fetched ({'; '.join(failures)}). Three ways: `star-exp data fetch fashion-mnist --from FOLDER` "
        f"with the four *-ubyte(.gz) files; Debian's package {DEBIAN_PACKAGE}, which this command unpacks where apt-get is at hand; "
        f"or the network to {ORIGIN}."
    )


def is_complete(target: Path) -> bool:
    """Whether `target` holds four files of these sizes; their content was checked before they were moved there."""
    found = {name: target / name for name in SIZES}
    return all(path.is_file() and path.stat().st_size == SIZES[name] for name, path in found.items())


def check(target: Path) -> None:
    """Check the content of the four files in `target`, which others may have put there: MNIST's have the same names and sizes.

    Raises:
        DataError: one is not Fashion-MNIST's.
    """
    for name, expected in SHA256.items():
        with (target / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise DataError(
                    f"{target / name}: is not Fashion-MNIST's, its SHA-256 differs; take it away, and run `star-exp data fetch "
                    "fashion-mnist` again."
                )


def _existing(folder: Path | None) -> Path:
    if folder is None or not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    return folder


def _unpack(source: Path, scratch: Path, target: Path) -> None:
    scratch.mkdir()
    for name, expected in SHA256.items():
        found = next((p for p in (*source.rglob(f"{name}.gz"), *source.rglob(name)) if p.is_file()), None)
        if found is None:
            raise DataError(f"{name}.gz is not in {source}")
        try:
            content = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(f"{found} is damaged: {error}") from None
        if hashlib.sha256(content).hexdigest() != expected:
            raise DataError(f"{found} is not Fashion-MNIST's {name}: its SHA-256 differs")
        (scratch / name).write_bytes(content)
    if not target.exists():
        scratch.rename(target)
        return
    for name in SHA256:  # a folder that somebody has begun by hand: what else is in it stays
        (scratch / name).replace(target / name)


def _from_debian(scratch: Path) -> Path:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DataError("apt-get and dpkg-deb are not on this machine")
    (scratch / "partial").mkdir()
    try:
        _apt(["download", DEBIAN_PACKAGE], scratch)
    except subprocess.SubprocessError:  # no package lists yet: fetch them into the scratch folder, which needs no root
        own = [
            "-o",
            f"Dir::State::Lists={scratch}",
            "-o",
            f"Dir::Cache={scratch}",
            "-o",
            "Debug::NoLocking=1",
            "-o",
            "APT::Sandbox::User=",
        ]
        _apt([*own, "update"], scratch)
        _apt([*own, "download", DEBIAN_PACKAGE], scratch)
    package = next(scratch.glob(f"{DEBIAN_PACKAGE}*.deb"))
    subprocess.run(
        ["dpkg-deb", "-x", str(package), str(scratch / "package")], check=True, capture_output=True, timeout=300
    )
    return scratch / "package"


def _apt(arguments: list[str], folder: Path) -> None:
    try:
        subprocess.run(["apt-get", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=600)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout or "apt-get failed").strip().splitlines()[-1]
        raise subprocess.SubprocessError(reason) from None


def _from_origin(scratch: Path) -> Path:
    for name in SHA256:
        with (
            urllib.request.urlopen(f"{ORIGIN}{name}.gz", timeout=60) as reply,
            (scratch / f"{name}.gz").open("wb") as file,
        ):
            shutil.copyfileobj(reply, file)
    return scratch

"""The file of Inception's weights for FID: fetched once, checked by SHA-256, never replaced by another file."""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from star.errors import DataError

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
ORIGIN = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"


def kept(data_home: Path) -> Path:
    """The path where the fetched file is kept."""
    return data_home / "inception" / INCEPTION_FILE


def inception(target: Path, source: Path | None = None) -> str:
    """Put the file of Inception's weights at `target` and return where it came from.

    Args:
        source: take it from here (a file, or the folder that holds it) instead of the network.

    Raises:
        DataError: it cannot be fetched, or is not the published file; `target` is left as it was.
    """
    if target.is_file():
        check(target)
        return "already there"
    scratch = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source is None:
            with urllib.request.urlopen(ORIGIN, timeout=60) as reply, scratch.open("wb") as file:
                shutil.copyfileobj(reply, file)
        else:
            shutil.copyfile(source / INCEPTION_FILE if source.is_dir() else source, scratch)
        check(scratch, named=source or ORIGIN)
        scratch.replace(target)
    except (OSError, HTTPException) as error:
        raise DataError(
            f"Inception's weights could not be fetched ({error}). Two ways: the network to {ORIGIN}, "
            f"or `star-exp weights fetch inception --from FILE` with that file."
        ) from None
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
    return str(source or ORIGIN)


def check(path: Path, named: object = None) -> None:
    """Check by SHA-256 that `path` is the published file.

    Args:
        named: what the error message calls the file instead of `path`.

    Raises:
        DataError: it is another file.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != INCEPTION_SHA256:
        raise DataError(
            f"{named or path}: is not {INCEPTION_FILE}: its SHA-256 is {found}, not {INCEPTION_SHA256}. "
            "Give the published file; another network's FID is not FID."
        )

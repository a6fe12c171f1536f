"""Where images and imported codes lie on this machine, and whether they exist. Cheap to import: every plan uses it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from star.data import fetch
from star.data.folders import Tree
from star.errors import DataError
from star.pipeline.config.dataset import SOURCES, DataSpec
from star.words import shown

FASHION_MNIST = hashlib.sha256("".join(fetch.SHA256.values()).encode()).hexdigest()[:16]
"""Fashion-MNIST's fingerprint in keys; its files were checked when they were fetched."""


def folder_of(spec: DataSpec, data_home: Path) -> Path:
    """Where the images of a spec lie on this machine."""
    return Path(spec.path) if spec.path else data_home / spec.name


def missing(spec: DataSpec, data_home: Path) -> str | None:
    """The error message if the images are missing; None if they exist."""
    folder = folder_of(spec, data_home)
    if spec.name == "fashion-mnist":
        return (
            None
            if fetch.is_complete(folder)
            else f"Fashion-MNIST is not in {shown(folder)}; run `star-exp data fetch fashion-mnist`."
        )
    if spec.name not in SOURCES:
        return None if folder.exists() else f"data.path: {shown(folder)} is not there; give what {spec.name} reads."
    wanted = "*.parquet files" if spec.name == "parquet" else "one subfolder per class, or train/ and val/ of such"
    return None if folder.is_dir() else f"data.path: {shown(folder)} is no folder here; give one with {wanted}."


def codes_absent(folder: Path) -> str | None:
    """The error message if the codes are missing; None if they exist."""
    try:
        for kind in ("codes", "labels"):
            codes_part(folder, kind)
    except DataError as error:
        return str(error)
    return None


def codes_tree(folder: Path) -> Tree:
    """The files of one crop range's codes and labels, for their fingerprint."""
    whole = Tree.of(folder, (".npy",), states=True)
    mine = tuple(f"{path.name}/" for path in _parts(folder))
    whole.states = {name: state for name, state in whole.states.items() if name.startswith(mine)}
    return whole


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*_*") if path.is_dir() and path.name.endswith(("_codes", "_labels")))


def codes_part(folder: Path, kind: str) -> Path:
    """The folder `*_codes` or `*_labels` (by `kind`) of an extraction.

    Raises:
        DataError: there is none, or there are several.
    """
    found = [path for path in _parts(folder) if path.name.endswith(f"_{kind}")]
    if len(found) != 1:
        raise DataError(
            f"data.codes: {folder} has {len(found)} folders called *_{kind}; LlamaGen's extraction makes one, such as imagenet256_{kind}."
        )
    return found[0]

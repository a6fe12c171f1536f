"""Reference files in ADM's layout: moments of many images, and some of the images.

mu, sigma        of the pooled features
mu_s, sigma_s    of the spatial features
arr_0            (M, H, W, 3) bytes: the images of precision and recall, 10,000 in ADM's files
extractor        only in our files: the network's name and input size; ADM's files are Inception's
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from star.data.image_sets import UNREADABLE
from star.data.pixels import Images
from star.errors import DataError
from star.evaluate.frechet import Moments
from star.sniff import misnamed

PAIRS = {"pooled": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass
class ReferenceFile:
    """What a reference file holds, apart from its images, which `star.data.image_sets` reads."""

    extractor: str
    pooled: Moments | None
    spatial: Moments | None
    has_images: bool
    named: bool
    """Whether the file names its network; those of others do not, and are taken for Inception's."""


def read_reference(path: Path) -> ReferenceFile:
    """Read the moments in `path`, None where it has none, and whether it has images.

    Raises:
        DataError: it is not a reference file, or its moments are not finite, differ in shape or are no covariance.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path}: cannot be read as a reference file: {misnamed(path) or 'it is no .npz archive, or is cut short'}."
        )
    try:
        with np.load(path) as file:
            found = {name: _moments(path, file, *keys) for name, keys in PAIRS.items()}
            named = "extractor" in file
            extractor = str(file["extractor"]) if named else "inception"
            images = "arr_0" in file
            keys = ", ".join(file.files)
    except DataError:
        raise
    except UNREADABLE as error:
        reason = "it holds Python objects, no numbers" if "allow_pickle" in str(error) else error
        raise DataError(f"{path}: cannot be read as a reference file: {reason}.") from None
    if found["pooled"] is None and not images:
        raise DataError(f"{path}: has neither mu and sigma nor images (arr_0); it has: {keys or 'nothing'}.")
    return ReferenceFile(extractor, found["pooled"], found["spatial"], images, named)


def write_reference(path: Path, extractor: str, pooled: Moments, spatial: Moments, images: Images) -> None:
    """Write a file in ADM's layout: beside `path`, then renamed over it. Images are (M, H, W, 3) or (M, H, W, 1)."""
    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    scratch = path.with_name(f".{path.stem}.part.npz")
    moments: dict[str, Any] = {
        "mu": pooled.mean,
        "sigma": pooled.covariance,
        "mu_s": spatial.mean,
        "sigma_s": spatial.covariance,
    }
    try:
        np.savez(scratch, **moments, arr_0=images, extractor=np.array(extractor))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _moments(path: Path, file: np.lib.npyio.NpzFile, mean_key: str, covariance_key: str) -> Moments | None:
    if mean_key not in file or covariance_key not in file:
        return None
    kinds = {file[key].dtype.kind for key in (mean_key, covariance_key)}
    if kinds != {"f"}:
        raise DataError(f"{path}: {mean_key} and {covariance_key} are not floating-point numbers.")
    mean, covariance = (np.asarray(file[key], dtype=np.float64) for key in (mean_key, covariance_key))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise DataError(
            f"{path}: {covariance_key} of shape {covariance.shape} is no covariance for {mean_key} of shape {mean.shape}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{path}: {mean_key} or {covariance_key} holds values that are not finite numbers.")
    scale = np.abs(covariance).max()
    if not np.abs(covariance - covariance.T).max() <= 1e-6 * scale or covariance.diagonal().min() < 0:
        raise DataError(f"{path}: {covariance_key} is no covariance: it is not symmetric, or has negative variances.")
    return Moments(mean, covariance)

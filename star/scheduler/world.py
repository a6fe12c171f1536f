"""What a run reads of the outside world: fingerprints of images and files, and what of them is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from star.data import inception_file, llamagen_codes, sources
from star.data.image_sets import absent_members, open_images
from star.errors import DataError
from star.rundir import Home
from star.scheduler.fingerprints import Fingerprints
from star.spec.run import RunSpec
from star.spec.sections import ScoreSpec


def sources_of(
    spec: RunSpec,
    stages: Sequence[str],
    home: Home,
    cache: dict[str, str],
    missing: list[str],
    remembered: Fingerprints,
) -> dict[str, str]:
    """Fingerprints of the images and of given files, each looked for once per plan; what `stages` miss goes into `missing`."""
    where = spec.data.model_dump_json()
    if where not in cache:
        cache[where] = sources.fingerprint(spec.data, home.data)
        reason = sources.missing(spec.data, home.data)
        if reason and reason not in missing:
            missing.append(reason)
    found = {"data": cache[where]}
    files = (
        ("tokenizer", "tokenizer.weights", spec.tokenizer.weights, "LlamaGen's file"),
        ("model", "model.weights", spec.model.weights, "LlamaGen's file"),
        ("reference", "score.reference", spec.score.reference, "a reference file such as ADM's"),
    )
    for source, path, given, what in files:
        if given:
            if given not in cache:
                file = Path(given)
                cache[given] = remembered.of(file, partial(_sha256, file)) if file.is_file() else "absent"
                if cache[given] == "absent" and (source != "reference" or "reference" in stages):
                    missing.append(
                        f"{path}: {given} is not there; put {what} there or give its path with --set {path}=PATH."
                    )
            found[source] = cache[given]
    if "reference" in stages:
        _check_score_files(spec.score, home, cache, missing)
    given = spec.generate.samples
    if given:
        if given not in cache:
            cache[given] = _images(Path(given), missing, remembered)
        found["samples"] = cache[given]
    if spec.data.codes:
        if spec.data.codes not in cache:
            cache[spec.data.codes] = llamagen_codes.fingerprint(Path(spec.data.codes))
            missing += [reason for reason in (llamagen_codes.absent(Path(spec.data.codes)),) if reason]
        found["codes"] = cache[spec.data.codes]
    return found


def _check_score_files(score: ScoreSpec, home: Home, cache: dict[str, str], missing: list[str]) -> None:
    """That Inception's weights and the reference file are what they must be, before anything is computed."""
    if score.extractor == "inception":
        weights = Path(score.weights) if score.weights else inception_file.kept(home.data)
        reason = (
            f"score.extractor: Inception's weights are not at {weights}; `star-exp weights fetch inception` gets them."
        )
        if not weights.is_file():
            missing += [reason] if reason not in missing else []
        elif str(weights) not in cache:
            inception_file.check(weights)
            cache[str(weights)] = "checked"
    if score.reference and cache.get(score.reference) != "absent":
        absent = absent_members(Path(score.reference), ("mu", "sigma", "mu_s", "sigma_s", "arr_0"))
        if absent:
            raise DataError(
                f"score.reference: {score.reference} lacks {', '.join(absent)}; give an .npz in the layout of ADM's reference files."
            )


def _images(path: Path, missing: list[str], remembered: Fingerprints) -> str:
    if not path.exists():
        missing.append(f"generate.samples: {path} is not there; give an .npz, an .npy or a folder of images.")
        return "absent"
    return remembered.of(path, lambda: open_images(path).fingerprint())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

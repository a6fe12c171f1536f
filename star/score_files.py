"""Compare sets of image files: `python -m star.score_files REQUEST`, a JSON object with the fields of `Request`.

The part of `star-exp evaluate` and `star-exp reference` that needs torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from star.data.image_sets import ImageSet, first_images, open_images
from star.data.pixels import Images
from star.errors import DataError, StarError
from star.evaluate.features import Extractor, activations, features_of, load_extractor
from star.evaluate.frechet import Moments
from star.evaluate.precision_recall import Manifold, manifold
from star.evaluate.reference_file import ReferenceFile, read_reference, write_reference
from star.evaluate.statistics import METRICS, SPLIT_SIZE, Reference, Statistics, compare
from star.launch import follow_parent
from star.pipeline.score import GENERATED_KEPT
from star.train.guard import is_out_of_memory
from star.words import shown

REFERENCE_KEPT = 10_000
"""Reference images that precision and recall use, as in ADM's files."""
CACHE_VERSION = 2
TITLES = {
    "inception_score": ("Inception Score", "IS"),
    "frechet_distance": ("FID", "FD"),
    "spatial_frechet_distance": ("sFID", "sFD"),
    "precision": ("Precision", "Precision"),
    "recall": ("Recall", "Recall"),
}
"""Name of each metric with Inception's features, and with another network's, whose name then follows."""


@dataclass(frozen=True)
class Request:
    """A comparison of samples with a reference; with `write`, a reference file to make."""

    reference: str
    samples: str | None
    write: str | None
    """Path of the reference file to make; None to compare."""
    extractor: str
    weights: str
    """Path of Inception's weights."""
    input_size: int
    neighbours: int
    batch_size: int
    device: str
    threads: int
    cache: str
    """Folder of cached statistics of reference sets."""
    as_json: bool
    parent: int
    """Process id of the caller; without it nobody waits for the result."""

    @property
    def features(self) -> str:
        """Name of the features: the network, with its input size if that can be chosen."""
        return features_of(self.extractor, self.input_size)


@dataclass
class Session:
    """A request with its device, notes and feature network."""

    request: Request
    device: torch.device
    notes: list[str] = field(default_factory=list)
    _network: Extractor | None = None

    def check_moments(self, known: ReferenceFile, path: Path) -> None:
        """Check that given moments have as many features as the network, and note if they may be of another one.

        Raises:
            DataError: the numbers of features differ.
        """
        black = np.zeros((1, 64, 64, 3), dtype=np.uint8)
        found = next(activations(self.network, [black], self.device))
        for name, given in (("pooled", known.pooled), ("spatial", known.spatial)):
            made = getattr(found, name).shape[1]
            if given is not None and len(given.mean) != made:
                raise DataError(
                    f"{path}: its {name} moments are of {len(given.mean)} features, those of {self.request.features} are of {made}; give a "
                    "file made with the same network and input size."
                )
        if not known.named and known.spatial is None:
            self.notes.append(
                f"reference: {path} does not name its network, and is taken for ADM's Inception; moments of pytorch-fid or clean-fid, "
                "which resize otherwise, give another distance"
            )

    @property
    def network(self) -> Extractor:
        """The feature network, loaded when first used."""
        if self._network is None:
            asked = self.request
            self._network = load_extractor(asked.extractor, asked.input_size, Path(asked.weights), self.device)
        return self._network

    def open(self, path: Path, name: str) -> ImageSet:
        """Open the images at `path`; `name` is what notes call them.

        Raises:
            DataError: they cannot be used, or there are no more than `neighbours`.
        """
        images = open_images(path, self.request.threads)
        if len(images) <= self.request.neighbours:
            raise DataError(
                f"{path}: {len(images)} images are too few; precision and recall with k = {self.request.neighbours} need more than "
                f"{self.request.neighbours}, and a distance that means something thousands."
            )
        first_images(images)
        self.notes += [f"{name}: {note}" for note in images.notes]
        return images

    def gather(self, images: ImageSet, keep: int, name: str) -> Statistics:
        """Gather statistics of images in one pass, with features of `keep` images for precision and recall."""
        found, network = Statistics(len(images), keep, SPLIT_SIZE, self.device), self.network
        with _progress(name, len(images)) as progress:
            try:
                found.gather(network, images.batches(self.request.batch_size), progress=progress)
            except DataError as error:
                raise DataError(f"{name}: {error}") from None
        self.notes += [note for note in (f"{name}: {said}" for said in images.notes) if note not in self.notes]
        return found

    def limits(self, name: str, count: int, dim: int, keep: int) -> None:
        """Note if `count` images are too few for unbiased distances, or if precision and recall use only `keep`."""
        if count <= dim:
            self.notes.append(f"{name}: {count} images for {dim} features: distances are biased upwards")
        if keep < count:
            self.notes.append(f"{name}: precision and recall use {keep} of the {count} images, spread evenly")


def main(text: str) -> int:
    """Serve a request; returns the exit code: 0, 2 for an error, printed to stderr, or 143 if the caller has ended."""
    request = Request(**json.loads(text))
    follow_parent()
    if os.getppid() != request.parent:  # the caller was killed while torch was being imported
        return 143
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        session = Session(request, _device(request.device))
        torch.set_num_threads(request.threads)
        _write(session) if request.write else _evaluate(session)
        sys.stdout.flush()  # an error such as a full disk is raised here, not at exit
    except StarError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or request.write or request.reference}: {error.strerror or error}.\n")
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(f"error: --batch-size {request.batch_size}: there is not enough memory for it; give less.\n")
        return 2
    return 0


def _evaluate(session: Session) -> None:
    request, started = session.request, time.monotonic()
    assert request.samples is not None
    samples = session.open(Path(request.samples), "samples")
    reference, count = _reference(session, Path(request.reference), samples)
    found = session.gather(samples, GENERATED_KEPT, "samples")
    session.limits("samples", len(samples), found.points.shape[1], GENERATED_KEPT)
    values = compare(reference, found, request.neighbours)
    absent = [name for name in METRICS if name not in values]
    if absent:
        session.notes.append(
            f"reference: {request.reference} has nothing for {', '.join(map(_title(request), absent))}"
        )
    for note in session.notes:
        sys.stderr.write(f"note: {note}\n")
    if request.as_json:
        content = {
            "extractor": request.features,
            "reference": {"path": request.reference, "images": count},
            "samples": {"path": request.samples, "images": len(samples)},
            "metrics": {name: values.get(name) for name in METRICS},
            "notes": session.notes,
            "seconds": round(time.monotonic() - started, 2),
        }
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        sys.stdout.writelines(f"{_title(request)(name)}: {values[name]}\n" for name in METRICS if name in values)


def _title(request: Request) -> Callable[[str], str]:
    def title(metric: str) -> str:
        inception, other = TITLES[metric]
        return inception if request.extractor == "inception" else f"{other} ({request.features})"

    return title


def _reference(session: Session, path: Path, samples: ImageSet) -> tuple[Reference, int | None]:
    """The reference of the samples, and the number of its images (None if its file does not say)."""
    known = read_reference(path) if path.suffix.lower() == ".npz" and path.is_file() else None
    given = known is not None and known.pooled is not None and known.extractor == session.request.features
    if known is not None and known.pooled is not None and not given:
        if not known.has_images:
            raise DataError(
                f"{path}: its moments are of {known.extractor}, and without images (arr_0) they cannot be made for "
                f"{session.request.features}; give the options of {known.extractor}, or images."
            )
        session.notes.append(f"reference: moments of {known.extractor} left aside, made again from the file's images")
    if given and known is not None:
        session.check_moments(known, path)
    if given and known is not None and not known.has_images:
        assert known.pooled is not None
        return Reference(known.pooled, known.spatial), None
    images = session.open(path, "reference")
    if images.shape != samples.shape:
        sizes = " and ".join(f"{width} x {height}" for height, width in (images.shape, samples.shape))
        session.notes.append(f"reference and samples are {sizes} pixels; each is resized by the extractor alone")
    keep = len(images) if given else REFERENCE_KEPT
    pooled, spatial, balls = _cached(session, images, keep)
    if given and known is not None and known.pooled is not None:
        return Reference(known.pooled, known.spatial, balls), None
    session.limits("reference", len(images), len(pooled.mean), keep)
    return Reference(pooled, spatial, balls), len(images)


Made = tuple[Moments, Moments, Manifold]


def _made(session: Session, images: ImageSet, keep: int) -> Made:
    found = session.gather(images, keep, "reference")
    return found.pooled.result(), found.spatial.result(), manifold(found.points, session.request.neighbours)


def _cached(session: Session, images: ImageSet, keep: int) -> Made:
    """Statistics of a reference set, computed once for each content, extractor, k and `keep`."""
    asked = session.request
    name = [CACHE_VERSION, images.fingerprint(), asked.features, asked.neighbours, keep]
    path = Path(asked.cache) / f"{hashlib.sha256(json.dumps(name).encode()).hexdigest()[:16]}.npz"
    if path.exists():
        try:
            with np.load(path) as file:
                pooled, spatial = Moments(file["mu"], file["sigma"]), Moments(file["mu_s"], file["sigma_s"])
                balls = Manifold(*(torch.from_numpy(file[key]).to(session.device) for key in ("points", "radii")))
            return pooled, spatial, balls
        except Exception as error:  # whatever is wrong with the file, it can be made again
            session.notes.append(f"reference: {path} could not be read ({error}) and was made again")
    pooled, spatial, balls = _made(session, images, keep)
    arrays: dict[str, Any] = {
        "mu": pooled.mean,
        "sigma": pooled.covariance,
        "mu_s": spatial.mean,
        "sigma_s": spatial.covariance,
    }
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(scratch, points=balls.points.cpu().numpy(), radii=balls.radii.cpu().numpy(), **arrays)
        scratch.replace(path)
    except OSError as error:
        session.notes.append(f"reference: could not be kept for the next time ({error})")
    return pooled, spatial, balls


def _write(session: Session) -> None:
    """Write a reference file in ADM's layout."""
    assert session.request.write is not None
    target = Path(session.request.write)
    source = Path(session.request.reference).resolve()
    if target.is_dir():
        raise DataError(f"{target}: is a folder; name the file to write.")
    if target.exists() and target.resolve() != source:
        raise DataError(f"{target}: is there already; name another file, or take it away first.")
    if target.resolve() == source or source in target.resolve().parents:
        raise DataError(f"{target}: is what the images are read from; name another file.")
    target.parent.mkdir(parents=True, exist_ok=True)
    probe = target.with_name(f".{target.stem}.part.npz")  # fail before the work if the folder cannot be written
    probe.touch()
    probe.unlink()
    images = session.open(Path(session.request.reference), "images")
    found = session.gather(images, REFERENCE_KEPT, "images")
    kept = _selected(images, found.kept, session.request.batch_size)
    write_reference(target, session.request.features, found.pooled.result(), found.spatial.result(), kept)
    for note in session.notes:
        sys.stderr.write(f"note: {note}\n")
    sys.stdout.write(
        f"wrote {shown(target)}: {session.request.features} moments of {len(images)} images, {len(kept)} images\n"
    )


def _selected(images: ImageSet, rows: np.ndarray, size: int) -> Images:
    parts, first = [], 0
    for batch in images.batches(size):
        parts.append(batch[rows[(rows >= first) & (rows < first + len(batch))] - first])
        first += len(batch)
    return np.concatenate(parts)


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise StarError("--device: cuda was asked for, but this machine has no usable GPU; give auto or cpu.")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

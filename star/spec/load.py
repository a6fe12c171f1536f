"""From YAML to runs: profile, then the file's base, then --set, then each row, then the seed.

Every value keeps the mark of where it was written, so a mistake is reported there, whichever layer it came from.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star.errors import SpecError
from star.spec.check import check_report, check_rows
from star.spec.experiment import Experiment, ExperimentSpec, ProfileSpec, Row, Variant
from star.spec.explain import field_schema, meant, validated
from star.spec.keys import Keys, run_key
from star.spec.run import RunSpec
from star.spec.written import as_written
from star.spec.yamldoc import Doc, Mark, nested, overlay, parse, read


def load(
    path: Path,
    profile: str | None = None,
    sets: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    name: str | None = None,
) -> Experiment:
    """The experiment in `path`, resolved.

    Args:
        profile: a name in `profiles/` beside the file, or a path; the file's own choice when None.
        sets: `path=value` texts, applied over the base of every row.
        seeds: in place of the file's.
        name: the experiment's, in place of the file's.

    Raises:
        SpecError: with file, line, dotted path, value and what is legal.
    """
    doc = read(path)
    if is_search(doc):
        raise SpecError(f"{doc.mark(('search',))}: this is a search, not a table; `star-exp search {path}` runs it.")
    spec = validated(ExperimentSpec, doc, str(path))
    check_report(spec, doc, str(path))
    if name is not None:
        spec = validated(ExperimentSpec, overlay(doc, nested(("experiment",), name, Mark(f"--name {name}"))), str(path))
    chosen = profile or spec.profile
    base, presets = base_of(path, doc, chosen, None if profile else doc.mark(("profile",)))
    rows = list(_axis_rows(spec, doc, path) if spec.axes else _written_rows(spec, doc, presets))
    patches = [parse_set(text) for text in sets]
    for text, patch in zip(sets, patches, strict=True):
        base = overlay(base, patch)
        _refuse_varied(text, rows)
    used_seeds = list(seeds) if seeds else spec.seeds
    variants = tuple(_resolve(base, row, patch, used_seeds, str(path)) for row, patch in rows)
    check_rows(spec, variants, doc, str(path))
    _check_distinct(spec, variants, doc, str(path))
    written = as_written(path, doc, ("experiment", spec.experiment), Path(presets.file), patches, seeds, spec.reference)
    return Experiment(str(path), spec, Path(chosen).stem, variants, written)


def is_search(doc: Doc) -> bool:
    """Whether a file describes a search, and not an experiment."""
    return isinstance(doc.value, dict) and "search" in doc.value


def base_of(path: Path, doc: Doc, profile: str, mark: Mark | None) -> tuple[Doc, Presets]:
    """What a file's rows, or trials, have in common: the profile, its presets that the file uses, the file's own base.

    Args:
        mark: where the profile was chosen; None on the command line.
    """
    presets = Presets(*_read_profile(path, profile, mark))
    base = presets.base()
    for i, preset in enumerate(doc.value.get("use", ())):
        base = overlay(base, presets.get(preset, doc.mark(("use", i))))
    return overlay(base, doc.at("base") if doc.value.get("base") else Doc({})), presets


@dataclass(frozen=True)
class Presets:
    """A profile's file: its base and its named partial specs."""

    spec: ProfileSpec
    doc: Doc
    file: str

    def base(self) -> Doc:
        """The profile's own partial spec."""
        return self.doc.at("base")

    def get(self, name: str, mark: Mark | None) -> Doc:
        """The partial spec called `name`; `mark` is where it was asked for."""
        if name not in self.spec.presets:
            legal = sorted(self.spec.presets)
            raise SpecError(
                f"{mark}: {name!r} is no preset of {self.file}{meant(name, legal)}; it has: {', '.join(legal) or 'none'}."
            )
        return self.doc.at("presets", name)


def profile_base(path: Path) -> dict[str, Any]:
    """The partial spec that a profile's file gives to every run."""
    found: dict[str, Any] = read(path).value["base"]
    return found


def _read_profile(experiment: Path, name: str, mark: Mark | None) -> tuple[ProfileSpec, Doc, str]:
    folder = experiment.parent / "profiles"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if mark is not None and not path.is_file():  # a file names it from where it lies
        path = experiment.parent / name
    if not path.is_file():
        legal = sorted(p.stem for p in folder.glob("*.yaml"))
        raise SpecError(
            f"{mark or '--profile'}: {name!r} is no profile{meant(name, legal)}; {folder} has: {', '.join(legal) or 'none'}."
        )
    doc = read(path)
    return validated(ProfileSpec, doc, str(path)), doc, str(path)


def _written_rows(spec: ExperimentSpec, doc: Doc, presets: Presets) -> list[tuple[Row, Doc]]:
    rows = []
    for i, row in enumerate(spec.rows):
        patch = Doc({})
        for j, name in enumerate(row.use):
            patch = overlay(patch, presets.get(name, doc.mark(("rows", i, "use", j))))
        if row.spec:
            patch = overlay(patch, doc.at("rows", i, "spec"))
        marks = {(): doc.marks["rows", i], **patch.marks}
        rows.append((row, Doc(patch.value, marks)))
    return rows


def _axis_rows(spec: ExperimentSpec, doc: Doc, path: Path) -> list[tuple[Row, Doc]]:
    for axis, values in spec.axes.items():
        mark = doc.mark(("axes", axis))
        try:
            field_schema(RunSpec, axis)
        except SpecError as error:
            raise SpecError(f"{mark}: axes.{error}.") from None
        if not values:
            raise SpecError(f"{mark}: axes.{axis}: has no values; give a list of at least one.")
        texts = [repr(value) for value in values]
        for i, text in enumerate(texts):
            if text in texts[:i]:
                raise SpecError(
                    f"{doc.mark(('axes', axis, i))}: axes.{axis}: the value {values[i]!r} stands twice; keep one."
                )
    rows = []
    for indices in itertools.product(*(range(len(values)) for values in spec.axes.values())):
        patch, label = Doc({}), []
        for (axis, values), i in zip(spec.axes.items(), indices, strict=True):
            mark = doc.mark(("axes", axis, i)) or Mark(str(path))
            patch = overlay(patch, nested(tuple(axis.split(".")), values[i], mark))
            label.append(f"{axis.rsplit('.', 1)[-1]}={values[i]}")
        rows.append((Row(label=", ".join(label)), patch))
    return rows


def parse_set(text: str) -> Doc:
    """A `path=value` of the command line.

    Raises:
        SpecError: it is none, or a run has no such field.
    """
    path, equals, value = text.partition("=")
    mark = Mark(f"--set {text}")
    if not equals or not path:
        raise SpecError(f"{mark}: give it as path=value, such as optim.steps=200.")
    try:
        field_schema(RunSpec, path)
    except SpecError as error:
        raise SpecError(f"{mark}: {error}.") from None
    parsed = parse(value, str(mark)).value if value.strip() else None
    return nested(tuple(path.split(".")), parsed, mark)


def _refuse_varied(text: str, rows: list[tuple[Row, Doc]]) -> None:
    path = text.partition("=")[0]
    steps = tuple(path.split("."))
    for row, patch in rows:
        if steps in patch.marks:
            raise SpecError(
                f"--set {text}: {path} is what the rows vary ({row.label!r} sets it at {patch.marks[steps]}); change it there."
            )


def _resolve(base: Doc, row: Row, patch: Doc, seeds: list[int], name: str) -> Variant:
    whole = overlay(base, patch)
    asked = {name: value if isinstance(value, dict) else {} for name, value in whole.value.items()}
    samples = asked.get("generate", {}).get("samples")
    if row.quoted and not (samples and Path(str(samples)).expanduser().exists()):
        return Variant(row.label, row, ())
    if samples and not {"steps", "epochs"} & set(asked.get("optim", {})):  # of a training that there is none of
        whole = overlay(whole, nested(("optim", "steps"), 1, Mark(name)))
    first = validated(RunSpec, whole, name)
    if "seed" in whole.value:
        raise SpecError(
            f"{whole.mark(('seed',))}: seed: seeds belong to the experiment; write `seeds: [0, 1]` beside `rows`, or give --seeds."
        )
    if first.generate.samples:  # no seed made them that we know of
        return Variant(row.label, row, (first,))
    return Variant(row.label, row, tuple(first.model_copy(update={"seed": seed}) for seed in seeds))


def _check_distinct(spec: ExperimentSpec, variants: tuple[Variant, ...], doc: Doc, name: str) -> None:
    known = Keys()
    keys = [
        run_key(known.of(variant.runs[0], _named_files(variant.runs[0]))) if variant.runs else f"quoted {i}"
        for i, variant in enumerate(variants)
    ]
    for axis, values in spec.axes.items():
        if len(values) > 1 and _changes_nothing(list(spec.axes), axis, [len(v) for v in spec.axes.values()], keys):
            raise SpecError(
                f"{doc.mark(('axes', axis))}: axes.{axis}: changes nothing: its {len(values)} values {values!r} give the same runs; "
                "the part it sets is switched off, or lies outside what a run is made of."
            )
    for i, key in enumerate(keys):
        if key in keys[:i]:
            path = ("rows", i) if spec.rows else ("axes",)
            raise SpecError(
                f"{doc.mark(path) or name}: rows: {variants[i].label!r} is the same run as "
                f"{variants[keys.index(key)].label!r}; remove one, or change what differs."
            )


def _named_files(spec: RunSpec) -> dict[str, str]:
    """Instead of contents, which are not looked at here: files of two names are taken for two."""
    given = {
        "data": spec.data.path,
        "codes": spec.data.codes,
        "samples": spec.generate.samples,
        "tokenizer": spec.tokenizer.weights,
        "model": spec.model.weights,
        "reference": spec.score.reference,
    }
    return {source: path or "" for source, path in given.items()}


def _changes_nothing(axes: list[str], axis: str, sizes: list[int], keys: list[str]) -> bool:
    place = axes.index(axis)
    groups: dict[tuple[int, ...], set[str]] = {}
    for indices, key in zip(itertools.product(*(range(size) for size in sizes)), keys, strict=True):
        groups.setdefault(indices[:place] + indices[place + 1 :], set()).add(key)
    return all(len(group) == 1 for group in groups.values())

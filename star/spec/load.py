"""From YAML to runs: profile, then the file's base, then --set, then each row, then the seed.

Every value keeps its source location, so a mistake is reported where it was written, whichever layer it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from star.errors import SpecError
from star.spec.base import at_home
from star.spec.check import check_report, check_rows
from star.spec.claims import BestAt
from star.spec.experiment import Declared, Experiment, ExperimentSpec, Variant
from star.spec.explain import field_schema, validated
from star.spec.extends import Extended
from star.spec.file_kind import read_as
from star.spec.graph import needed_of
from star.spec.keys import Keys, run_key
from star.spec.measure import parse_formula, parse_measure
from star.spec.own_parts import refuse_declared, texts_of, with_declared, with_plugins
from star.spec.profiles import Presets, base_of
from star.spec.renames import OF_FILES, OF_ROWS, renamed, told
from star.spec.reporting import AblationFigure
from star.spec.rows import Placed, idle_axes, label_of, rows_of, told_of, variant_of
from star.spec.run_base import Run
from star.spec.sweeps import Change, changes_of, swept
from star.spec.written import as_written
from star.spec.yamldoc import LocatedYaml, SourceLocation, nested, overlay


def load(
    path: Path,
    profile: str | None = None,
    sets: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    name: str | None = None,
) -> Experiment:
    """Read the experiment in `path` and resolve its runs.

    Args:
        profile: a name in `profiles/` beside the file, or a path; the file's own choice when None.
        sets: `path=value` texts, applied over the base of every row.
        seeds: replace the file's seeds.
        name: replaces the experiment's name.

    Raises:
        SpecError: with file, line, dotted path, value and what is legal.
    """
    extended = read_as("experiment", path)
    read = with_plugins(extended.doc, path)
    kind = validated(Declared, read, str(path)).run_class()
    changes = changes_of(sets, kind)
    doc, notes = swept(read, [change for change in changes if change.values is not None])
    spec = validated(ExperimentSpec, doc, str(path))
    check_report(spec, doc, str(path))
    if name is not None:
        spec = validated(
            ExperimentSpec, overlay(doc, nested(("experiment",), name, SourceLocation(f"--name {name}"))), str(path)
        )
    base, presets = base_of(doc, extended.folders, kind, profile)
    rows = rows_of(spec, doc, base, presets, str(path))
    patches = [change for change in changes if change.values is None]
    for patch in patches:
        base = overlay(base, patch.doc)
        _refuse_varied(patch, rows)
    used_seeds = list(seeds) if seeds else spec.seeds
    base = with_declared(base, spec.stages, spec.plugins, path)
    resolved = [_resolve(kind, base, row, used_seeds, str(path)) for row in rows]
    runs = [own for own, _ in resolved]
    _refuse_seeds(spec, runs, used_seeds, doc)
    kept, idle = _distinct(spec, rows, runs, doc, str(path))
    variants = tuple(
        variant_of(rows[i], runs[i], spec.axes, idle.get(rows[i].number, set()), resolved[i][1]) for i in kept
    )
    check_rows(spec, variants, doc, str(path))
    written = as_written(
        path,
        extended,
        doc,
        ("experiment", spec.experiment),
        presets.file,
        [p.doc for p in patches],
        seeds,
        spec.published_values,
    )
    written = texts_of(spec.stages, spec.plugins, path, doc) | written
    notes += told_of(rows, spec.axes, idle)
    notes += _told_of_idle(patches, runs)
    notes += dict.fromkeys(remark for variant in variants for run in variant.runs[:1] for remark in run.remarks())
    notes += _told_of_former(spec, extended, presets, patches)
    notes += [*_told_of_directions(spec), *_told_of_figures(spec, variants), *_told_of_points(spec, variants)]
    return Experiment(str(path), spec, presets.name, variants, written, tuple(notes), "given" if seeds else "file")


def _told_of_idle(patches: Sequence[Change], runs: Sequence[tuple[Run, ...]]) -> list[str]:
    """Notes on changes of the command line that have no effect in any row, as far as sections know such fields."""
    notes = []
    for patch, path in ((one, path) for one in patches for path in one.fields):
        section, _, name = path.partition(".")
        idle = [getattr(getattr(own[0], section, None), "idle", {}) for own in runs if own]
        if idle and all(name in one for one in idle):
            where = "" if path == patch.path else f" at {path}"
            notes.append(f"--set {patch.text} changes nothing{where}: {idle[0][name]}")
    return notes


def _told_of_directions(spec: ExperimentSpec) -> list[str]:
    """Notes on claims that call the best what the table's column calls the worst."""
    better = {column.metric: column for column in spec.table.columns if column.better} if spec.table else {}
    return [
        f"claim {claim.id}: {one.row} is the best where {one.metric} is {one.better}; the column {column.title} says {column.better}"
        for claim in spec.claims
        for one in claim.that
        if isinstance(one, BestAt) and (column := better.get(one.metric)) is not None and one.better != column.better
    ]


def _told_of_figures(spec: ExperimentSpec, variants: Sequence[Variant]) -> list[str]:
    """Notes on ablation figures whose rows all have one value of their axis."""
    notes = []
    for figure in (one for one in spec.figures if isinstance(one, AblationFigure)):
        shown = [one for one in variants if one.runs and (not figure.rows or one.label in figure.rows)]
        if len(shown) > 1 and len({str(one.value(figure.x)) for one in shown}) == 1:
            notes.append(
                f"figure {figure.name}: {figure.x} is {shown[0].value(figure.x)} in all its rows: it has one place"
            )
    return notes


def _told_of_points(spec: ExperimentSpec, variants: Sequence[Variant]) -> list[str]:
    """Notes on columns and claims that read a curve where no row records it, such as a position that the probe leaves out."""
    runs, notes = [one.runs[0] for one in variants if one.runs], []
    named = [(f"column {one.title}", one.metric) for one in (spec.table.columns if spec.table else ()) if one.metric]
    named += [(f"claim {claim.id}", one.metric) for claim in spec.claims for one in claim.that]
    for where, metric in named:
        text = spec.against[metric].value if metric in spec.against else metric
        formula = spec.metrics.get(text)
        parts = (
            parse_formula(formula, spec.pipeline).measures.values() if formula else [parse_measure(text, spec.pipeline)]
        )
        for part in parts:
            remedies = [run.not_recorded(part.name, part.at) for run in runs]
            if remedies and all(remedies):
                notes.append(f"{where}: no row records {part.name}{f'@{part.at}' if part.at else ''}; {remedies[0]}")
    return list(dict.fromkeys(notes))


def _told_of_former(spec: ExperimentSpec, extended: Extended, presets: Presets, patches: Sequence[Change]) -> list[str]:
    parts = [presets.spec.base, *presets.spec.presets.values(), spec.base]
    parts += [*(row.spec for row in spec.rows), *(patch.doc.value for patch in patches)]
    former = dict.fromkeys(one for part in parts for one in told(part))
    rows = extended.doc.value.get("rows") or ()
    former |= dict.fromkeys(
        f"{old} of a row is now {new}" for row in rows for old, new in OF_ROWS.items() if old in row
    )
    former |= dict.fromkeys(f"{old} is now {new}" for old, new in OF_FILES.items() if old in extended.doc.value)
    return [f"{one}; this version reads the former way, the next one will not" for one in former]


def _refuse_varied(change: Change, rows: Sequence[Placed]) -> None:
    for path in change.fields:
        steps = tuple(path.split("."))
        for placed in rows:
            if steps in placed.patch.locations:
                who = f"{placed.row.label!r} sets it" if placed.row.label else "it is set"
                raise SpecError(
                    f"--set {change.text}: {path} is what the rows vary ({who} at {placed.patch.locations[steps]}); change it there."
                )


def _refuse_seeds(
    spec: ExperimentSpec, runs: Sequence[tuple[Run, ...]], seeds: Sequence[int], doc: LocatedYaml
) -> None:
    """Check that different seeds give different runs.

    Raises:
        SpecError: no stage reads the seed.
    """
    first = next((own[0] for own in runs if own), None)
    if not (spec.stages or spec.plugins) or first is None or len(seeds) == 1 or not first.has_seed:
        return
    if not any("seed" in first.pipeline[stage].sections for stage in needed_of(spec.targets, first.pipeline)):
        what = "command" if spec.stages else "stage"
        remedy = "write {seed} into a command" if spec.stages else "say uses_seed of one"
        raise SpecError(
            f"{doc.location(('seeds',)) or 'seeds'}: seeds: no {what} uses its seed, so all these runs are one; {remedy}, or give one seed."
        )


def _resolve(
    kind: type[Run], base: LocatedYaml, placed: Placed, seeds: list[int], name: str
) -> tuple[tuple[Run, ...], LocatedYaml]:
    """The runs of a row, one per seed, and their values with the places where they were written."""
    whole = overlay(base, placed.patch)
    refuse_declared(placed.patch, "rows")
    given = kind.given_instead(whole.value)
    if placed.row.paper_only and not (given and _may_be_there(given)):
        _refuse_unknown(kind, whole)
        return (), whole
    for path, value in kind.filled_in(whole.value).items():
        whole = overlay(whole, nested(tuple(path.split(".")), value, SourceLocation(name)))
    first = validated(kind, whole, name)
    for term, values in placed.patch.value.get("terms", {}).items():
        if "weight" not in values and not first.has(f"terms.{term}.{next(iter(values), 'weight')}"):
            raise SpecError(
                f"{placed.patch.location(('terms', term))}: terms.{term}: its weight is 0, so nothing of it is built; give weight: 1 too "
                "(also where it has no loss of its own), or take it out of this row."
            )
    if "seed" in whole.value:
        raise SpecError(
            f"{whole.location(('seed',))}: seed: seeds belong to the experiment; write `seeds: [0, 1]` beside `rows`, or give --seeds."
        )
    if not first.has_seed:
        return (first,), whole
    return tuple(first.model_copy(update={"seed": seed}) for seed in seeds), whole


def _may_be_there(given: str) -> bool:
    try:
        return at_home(given).exists()
    except ValueError:  # which the field itself then says
        return True


def _refuse_unknown(kind: type[Run], doc: LocatedYaml) -> None:
    """Check that a quoted row sets fields that there are: a slip in the name of its samples would leave it quoted for ever.

    Raises:
        SpecError: a run has no such field.
    """
    for path in doc.locations:
        if 0 < len(path) <= 2 and path[0] not in ("stages", "plugins", "terms"):
            try:
                field_schema(kind, renamed(".".join(map(str, path))))
            except SpecError as error:
                raise SpecError(f"{doc.location(path)}: {error}.") from None


def _distinct(
    spec: ExperimentSpec, rows: list[Placed], runs: list[tuple[Run, ...]], doc: LocatedYaml, name: str
) -> tuple[list[int], dict[int, set[int]]]:
    """Indices of the rows that stay, and: number of a row in the file -> indices of the axes that change nothing in it.

    Raises:
        SpecError: an axis changes nothing in any row, or two rows are the same run.
    """
    known = Keys()
    keys = [
        run_key(own[0], known.of(own[0], _named_files(own[0]))) if own else f"quoted {i}" for i, own in enumerate(runs)
    ]
    idle = idle_axes(rows, spec.axes, keys)
    for i, (axis, values) in enumerate(spec.axes.items()):
        if idle and all(i in axes for axes in idle.values()):
            raise SpecError(
                f"{doc.location(('axes', axis))}: axes.{axis}: changes nothing: its {len(values)} values {values!r} give the same runs: "
                "they mean the same, or the part that they set is switched off, or is no part of what a run is made of."
            )
    kept = [i for i, row in enumerate(rows) if all(row.stands_for(axis) for axis in idle.get(row.number, ()))]
    labels = {i: label_of(rows[i], spec.axes, idle.get(rows[i].number, set())) for i in kept}
    for i in kept:
        if list(labels.values()).count(labels[i]) > 1:
            path: tuple[str | int, ...] = ("rows", rows[i].number, "label") if spec.rows else ("axes",)
            raise SpecError(
                f"{doc.location(path) or name}: rows: two rows are called {labels[i]!r}; give one of them another label."
            )
    first: dict[str, int] = {}
    for i in kept:
        if keys[i] in first:
            path = ("rows", rows[i].number) if spec.rows else ("axes",)
            raise SpecError(
                f"{doc.location(path) or name}: rows: {labels[i]!r} is the same run as "
                f"{labels[first[keys[i]]]!r}; remove one, or change what differs."
            )
        first[keys[i]] = i
    return kept, idle


def _named_files(spec: Run) -> dict[str, str]:
    """Source -> paths in place of fingerprints. Contents are not read here: other paths count as other files."""
    return {source: " ".join(str(path) for path, _ in given) for source, given in spec.outside_paths.items()}

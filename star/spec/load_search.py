"""From a search's YAML to what `star-exp search` runs. All mistakes are reported before the first trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from star.errors import SpecError
from star.spec.check_search import check_search
from star.spec.explain import validated
from star.spec.file_kind import read_as
from star.spec.own_parts import texts_of, with_declared, with_plugins
from star.spec.points import Search
from star.spec.profiles import base_of
from star.spec.search import SearchSpec
from star.spec.sweeps import changes_of
from star.spec.written import as_written
from star.spec.yamldoc import LocatedYaml, SourceLocation, nested, overlay


def load_search(
    path: Path,
    profile: str | None = None,
    sets: Sequence[str] = (),
    name: str | None = None,
    recorded: bool = False,
) -> Search:
    """Read the search in `path`, resolve it at its profile and check it.

    Args:
        profile: a name in `profiles/` beside the file, or a path; the file's own choice when None.
        sets: `path=value` texts, applied over the base.
        name: replaces the study's name.
        recorded: `path` is a home's copy: what its plugins declared is read from there, and their code is not run.

    Raises:
        SpecError: with file, line, dotted path, value and what is legal.
    """
    extended = read_as("search", path)
    doc = with_plugins(extended.doc, path, recorded)
    if name is not None:
        doc = overlay(doc, nested(("search",), name, SourceLocation(f"--name {name}")))
    spec = validated(SearchSpec, doc, str(path), recorded)
    kind = spec.declared.run_class()
    if "seed" in (doc.value.get("base") or {}):
        raise SpecError(
            f"{doc.location(('base', 'seed'))}: base.seed: seeds belong to the search; write `seeds: [0, 1]`."
        )
    base, presets = base_of(doc, extended.folders, kind, profile)
    changes = changes_of(sets, kind)
    for change in changes:
        if change.path == "seed":
            raise SpecError(f"--set {change.text}: seeds belong to the search; write `seeds: [0, 1]` into the file.")
        for field in change.fields:
            if field in spec.space:
                raise SpecError(
                    f"--set {change.text}: {field} is what the search varies; take it out of space, or change its range."
                )
        if change.values is not None:
            raise SpecError(
                f"--set {change.text}: a search chooses its points itself; put {change.path} into space with these as choices."
            )
        base = overlay(base, change.doc)
    locations = {field: doc.location(("space", field)) for field in spec.space}
    base = with_declared(base, spec.stages, spec.plugins, path)
    default = validated(kind, base, str(path), recorded)
    early = doc.at("pruner", "spec") if spec.pruner.spec else LocatedYaml({})
    written = as_written(path, extended, extended.doc, ("search", spec.search), presets.file, [c.doc for c in changes])
    written = texts_of(spec.stages, {} if recorded else spec.plugins, path, doc) | written
    search = Search(
        str(path),
        spec,
        presets.name,
        Path(presets.file) if presets.file else None,
        base,
        locations,
        default,
        early,
        written,
    )
    check_search(search, doc)
    return search

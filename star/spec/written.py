"""An experiment or a search as YAML that reproduces it: its file and profile, with the command line's changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from star.errors import SpecError
from star.spec.experiment import DEFAULT_PROFILE
from star.spec.extends import Extended
from star.spec.yamldoc import LocatedYaml, dump, overlay, text_of


def _moved(path: Path, declared: object) -> dict[str, Any] | None:
    """The declared stages, with paths that fit a copy of their files; None if no path changes."""
    if not isinstance(declared, dict):
        return None
    moved = {name: dict(script) for name, script in declared.items()}
    for name, script in moved.items():
        if script.get("folder"):
            script["folder"] = name
        if "reads" in script:
            script["reads"] = {
                one: str((path.parent / Path(place).expanduser()).resolve()) for one, place in script["reads"].items()
            }
    return moved if moved != declared else None


def as_written(
    path: Path,
    extended: Extended,
    doc: LocatedYaml,
    name: tuple[str, str],
    profile: str | None,
    patches: Sequence[LocatedYaml],
    seeds: Sequence[int] | None = None,
    published_values: str | None = None,
) -> dict[str, str]:
    """Name -> text of files for one folder: NAME.yaml, profiles/PROFILE.yaml, and the file of its own published values.

    Args:
        path: the experiment's file; its text is kept as it is if nothing was changed and it extends no other.
        doc: what it holds, with the sweeps of the command line.
        name: (`experiment` or `search`, the name that it was given).
        profile: the profile's file; None if there is none.
        patches: what --set changed.
        seeds: replace the file's seeds.
        published_values: path of its file of published values, as `path` gives it.
    """
    told = doc.value
    changed = {key: value for key, value in told.items() if value != extended.doc.value.get(key) and key != "plugins"}
    names = extended.doc.value.get("plugins")
    if names is not None:  # plugin files are copied into the same folder
        moved = [Path(name).name if name.endswith(".py") else name for name in names]
        told = told | {"plugins": moved}
        changed |= {"plugins": moved} if moved != names else {}
    kind, given = name
    if doc.value.get(kind) != given:
        changed[kind] = given
    place = None if profile is None else Path(profile)
    if place is not None and doc.value.get("profile", DEFAULT_PROFILE) != place.stem:
        changed["profile"] = place.stem
    if seeds:
        changed["seeds"] = list(seeds)
    if patches:
        base = doc.at("base") if doc.value.get("base") else LocatedYaml({})
        for patch in patches:
            base = overlay(base, patch)
        changed["base"] = base.value
    if declared := _moved(path, doc.value.get("stages")):
        changed["stages"] = declared
    files = {} if place is None else {f"profiles/{place.stem}.yaml": place.read_text("utf-8-sig")}
    if published_values is not None:
        values = path.parent / published_values
        kept = values.name if values.name != f"{given}.yaml" else f"published-{values.name}"
        try:
            files[kept] = text_of(values)
        except SpecError as error:
            raise SpecError(f"{doc.location(('published_values',)) or path}: published_values: {error}") from None
        if kept != published_values:
            changed["published_values"] = kept
    if not changed and len(extended.folders) == 1:
        return {f"{given}.yaml": path.read_text("utf-8-sig"), **files}
    parts = [", ".join(changed) and f"what the command line, or its place, changed: {', '.join(changed)}"]
    parts += ["what it extends"] if len(extended.folders) > 1 else []
    note = f"# {path.name} with {' and '.join(filter(None, reversed(parts)))}\n"
    return {f"{given}.yaml": note + dump(told | changed), **files}

"""An experiment as YAML that gives it again: its file and its profile, with what the command line changed written in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from star.spec.experiment import ExperimentSpec
from star.spec.yamldoc import Doc, dump, overlay


def as_written(
    path: Path, doc: Doc, spec: ExperimentSpec, profile: Path, patches: Sequence[Doc], seeds: Sequence[int] | None
) -> dict[str, str]:
    """Name -> text of files that stand in one folder: NAME.yaml, profiles/PROFILE.yaml, and a reference of its own.

    Args:
        path: the experiment's file; its text is kept as it is where nothing was changed.
        spec: what was made of it, under the name that it was given.
        profile: the profile's file.
        patches: what --set changed.
        seeds: in place of the file's.
    """
    changed: dict[str, Any] = {}
    if doc.value.get("experiment") != spec.experiment:
        changed["experiment"] = spec.experiment
    if doc.value.get("profile", "fashion") != profile.stem:
        changed["profile"] = profile.stem
    if seeds:
        changed["seeds"] = list(seeds)
    if patches:
        base = doc.at("base") if doc.value.get("base") else Doc({})
        for patch in patches:
            base = overlay(base, patch)
        changed["base"] = base.value
    files = {f"profiles/{profile.stem}.yaml": profile.read_text("utf-8-sig")}
    if spec.reference is not None:
        reference = path.parent / spec.reference
        files[reference.name] = reference.read_text("utf-8-sig")
        if reference.name != spec.reference:
            changed["reference"] = reference.name
    if not changed:
        return {f"{spec.experiment}.yaml": path.read_text("utf-8-sig"), **files}
    note = f"# {path.name} with what the command line, or its place, changed: {', '.join(changed)}\n"
    return {f"{spec.experiment}.yaml": note + dump(doc.value | changed), **files}

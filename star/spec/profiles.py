"""Profiles: the scale that an experiment's runs have, and the named partial specs that its rows use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star.errors import SpecError
from star.spec.experiment import DEFAULT_PROFILE, ProfileSpec
from star.spec.explain import validated
from star.spec.run_base import Run
from star.spec.yamldoc import LocatedYaml, SourceLocation, overlay, read
from star.words import meant

NONE = "none"
"""The name of the profile if there is none."""


EXPERIMENTS = Path("experiments")
"""Where profiles are that a study elsewhere need not copy; relative to where a command is given."""


@dataclass(frozen=True)
class Presets:
    """A profile's file: its base and its named partial specs."""

    spec: ProfileSpec
    doc: LocatedYaml
    file: str | None
    """Path of the profile; None if the runs need no profile."""

    @property
    def name(self) -> str:
        """The profile's name; `none` if there is no profile."""
        return NONE if self.file is None else Path(self.file).stem

    def base(self) -> LocatedYaml:
        """The profile's own partial spec."""
        return self.doc.at("base")

    def get(self, name: str, location: SourceLocation | None) -> LocatedYaml:
        """The partial spec called `name`; `location` is where it was asked for.

        Raises:
            SpecError: the profile has no such preset.
        """
        if name not in self.spec.presets:
            legal = sorted(self.spec.presets)
            raise SpecError(
                f"{location}: {name!r} is no preset of {self.file or 'no profile, which is what commands alone have'}{meant(name, legal)}; "
                f"it has: {', '.join(legal) or 'none'}."
            )
        return self.doc.at("presets", name)


def base_of(
    doc: LocatedYaml, folders: Sequence[Path], kind: type[Run], given: str | None
) -> tuple[LocatedYaml, Presets]:
    """What a file's rows or trials share (profile, its presets in `use`, the file's base), and the profile's presets.

    Args:
        folders: a name is looked for in the `profiles/` of each, the file's own folder first, and last in that of EXPERIMENTS.
        kind: the class of the runs. Those of commands alone have a profile only if one is asked for.
        given: name or path of the profile on the command line; None: the file's own choice.

    Raises:
        SpecError: there is no such profile or preset, or it describes other runs than these.
    """
    chosen = doc.value.get("profile", DEFAULT_PROFILE if kind.needs_profile else None) if given is None else given
    location = None if given is not None else doc.location(("profile",))
    if chosen is None:
        presets = Presets(ProfileSpec(description="", base={}), LocatedYaml({"base": {}, "presets": {}}), None)
    else:
        presets = _read_profile(folders, chosen, location)
        if not kind.needs_profile and (foreign := set(presets.spec.base) - set(kind.model_fields)):
            raise SpecError(
                f"{location or '--profile'}: {chosen} gives {', '.join(sorted(foreign))} to runs that have no such sections: these are of "
                "commands alone, and need no profile; leave it out, or give one with the sections of your own stages."
            )
    base = presets.base()
    for i, preset in enumerate(doc.value.get("use", ())):
        base = overlay(base, presets.get(preset, doc.location(("use", i))))
    return overlay(base, doc.at("base") if doc.value.get("base") else LocatedYaml({})), presets


def profile_base(path: Path) -> dict[str, Any]:
    """The partial spec that a profile's file gives to every run."""
    found: dict[str, Any] = read(path).value["base"]
    return found


def _read_profile(folders: Sequence[Path], name: str, location: SourceLocation | None) -> Presets:
    kept = [folder / "profiles" for folder in (*folders, EXPERIMENTS)]
    is_path = name.endswith((".yaml", ".yml"))
    places = [Path(name)] if is_path else [folder / f"{name}.yaml" for folder in kept]
    if location is not None:  # a path in a file is relative to that file
        beside = Path(location.source).parent / name
        places = [beside, *places] if is_path else [*places, beside]
    path = next(filter(os.path.isfile, places), None)
    if path is None:
        legal = sorted({found.stem for folder in kept for found in folder.glob("*.yaml")})
        where = " and ".join(map(str, dict.fromkeys(kept)))
        raise SpecError(
            f"{location or '--profile'}: there is no profile {name!r}{meant(name, legal)}; {where} have {', '.join(legal) or 'none'}"
            f"{'' if legal else ': `star-exp init` writes those that come with star; or go to the folder that has experiments/'}."
        )
    doc = read(path)
    return Presets(validated(ProfileSpec, doc, str(path)), doc, str(path))

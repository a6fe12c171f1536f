"""The external files and folders that a run reads: their fingerprints, what was found in them, and what is missing.

A stage's declaration says what to look for. An input that is not on this disk counts as what it was: by the home's
manifest of that path, or by the record of the experiment's last run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from star.data.folders import Tree
from star.data.manifests import Manifests
from star.errors import DataError
from star.rundir import Home
from star.sniff import misnamed
from star.spec.keys import canonical
from star.spec.outside import ABSENT
from star.spec.run_base import Run
from star.spec.script_files import contents_of, listing_of
from star.spec.scripts import ScriptStage, scripts_of, source_of
from star.words import shown

Locate = Callable[[str], object]
"""Dotted path -> where its value was written, such as `FILE:LINE`; None where nobody wrote it."""


@dataclass
class ExternalInputs:
    """Looks up the external inputs of a plan's runs, each one once; implements `star.spec.outside.Outside`.

    Args:
        stages: names of the stages that the plan needs.
        rows: each row's label and its first run.
        recorded_rows: returns row label -> what the experiment's record holds of the row's first run; called once, and
            only when an input is not here.
    """

    home: Home
    stages: Sequence[str]
    rows: Sequence[tuple[str, Run]]
    recorded_rows: Callable[[], Mapping[str, dict[str, Any]]]
    missing: list[str] = field(default_factory=list)
    """Messages about needed inputs that are not here, or do not fit."""
    notes: list[str] = field(default_factory=list)
    """What was found in the data, as sentences for `plan` and `run`."""
    assumed: list[str] = field(default_factory=list)
    """Messages about inputs that are not here and count as what they were in the experiment's last run."""

    def __post_init__(self) -> None:
        self.manifests = Manifests(self.home)
        self._cache: dict[str, Any] = {}
        self._location: Locate = lambda path: None
        self.is_needed = True
        """Whether the plan needs the stage whose inputs are being looked up."""

    @property
    def data_home(self) -> Path:
        """The folder of data sets that this program fetches."""
        return self.home.data

    def of(self, spec: Run, location: Locate = lambda path: None) -> tuple[dict[str, str], Run]:
        """Return the fingerprints of a run's inputs, by source, and the run adapted to what was found (`settle`).

        Args:
            location: returns where the value at a dotted path was written, for messages about it.

        Raises:
            DataError: an input is not what the spec says.
        """
        self._location = location
        try:
            return self._of(spec)
        except DataError as error:
            raise DataError(self._placed(str(error))) from None

    def _placed(self, message: str) -> str:
        """Return a message, behind file and line if it begins with the dotted path of a value that was written there."""
        place = self._location(message.partition(": ")[0])
        return message if place is None else f"{place}: {message}"

    def _of(self, spec: Run) -> tuple[dict[str, str], Run]:
        scripts = scripts_of(spec)
        found: dict[str, str] = {}
        for name, stage in spec.pipeline.items():
            self.is_needed = name in self.stages
            if name in scripts:
                found[source_of(name)] = self._script(name, scripts[name])
            elif stage.look is not None:
                fingerprint = resolve_name(stage.look)(spec, self)
                if fingerprint is not None:
                    found[str(stage.source)] = fingerprint
        self.is_needed = False  # what is missing has been said
        return found, spec if spec.settled_by is None else resolve_name(spec.settled_by)(spec, self)

    def _script(self, stage: str, script: ScriptStage) -> str:
        """Return the text by which a key names a script's files and what it reads."""

        def look() -> str:
            read: dict[str, str] = {}
            for name, given in script.reads.items():
                path, where = Path(given), f"stages.{stage}.reads.{name}"
                found: str | None
                if path.exists():
                    found = self.content(path)
                else:
                    self.lacks(f"{where}: {shown(given)} is not there; put it there, or give its path.")
                    found = self.manifests.known(path)
                read[name] = (found or ABSENT)[:16]
            return canonical({"files": listing_of(contents_of(stage, script)), "reads": read})

        return str(self.once(f"script {stage}", look))

    def content(self, path: Path, how: str = "content") -> str:
        """Fingerprint, in 64 hexadecimal digits, of a file, or of all files of a folder, whatever their names.

        Args:
            how: for a folder, whether its files' `content` counts or only their `sizes`.
        """
        return (
            self.manifests.file(path) if path.is_file() else self.manifests.tree(Tree.of(path, ("",), states=True), how)
        )

    def once(self, place: str, look: Callable[[], Any]) -> Any:
        """Return what `look` gave for this `place`; it is called the first time only."""
        if place not in self._cache:
            self._cache[place] = look()
        return self._cache[place]

    def lacks(self, reason: str) -> None:
        """Add `reason` to `missing`, unless no target needs the stage."""
        if self.is_needed and (placed := self._placed(reason)) not in self.missing:
            self.missing.append(placed)

    def note(self, text: str) -> None:
        """Add a sentence to `notes`, once."""
        if text not in self.notes:
            self.notes.append(text)

    def recorded(self, source: str, field: str, given: str) -> Mapping[str, Any] | None:
        """Return a row of the experiment's last run that read the missing input `given`; it is noted in `assumed`.

        Its label must be that of a row that reads `given` now, and its `field` must have named a file or folder of the
        same name. None where there is no such row, or such rows have different fingerprints.
        """
        section, name = field.split(".")
        rows: Mapping[str, dict[str, Any]] = self.once("record", self.recorded_rows)
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
        note = f"{field}: {shown(given)} is not here; it counts as what it was when this experiment last ran"
        if note not in self.assumed:
            self.assumed.append(note)
        return next(iter(found.values()))

    def before(self, source: str, field: str, given: str) -> str:
        """Return the fingerprint that a missing input had in the experiment's last run; ABSENT if none is known."""
        row = self.recorded(source, field, given)
        return ABSENT if row is None else str(row["sources"][source])

    def file(self, source: str, field: str, given: str, what: str) -> str:
        """Return the fingerprint of a file, in 16 hexadecimal digits; of a missing one the last known, or ABSENT.

        Raises:
            DataError: the path is a folder, or the file is not what its name says.
        """

        def look() -> str:
            path = Path(given)
            if path.is_file():
                if known := misnamed(path):
                    raise DataError(f"{field}: {shown(given)}: {known}.")
                return self.manifests.file(path)[:16]
            if path.is_dir():
                raise DataError(f"{field}: {shown(given)} is a folder; give the file.")
            self.lacks(f"{field}: {given} is not there; put {what} there or give its path with --set {field}=PATH.")
            before = self.manifests.known(path)
            return before[:16] if before else self.before(source, field, given)

        return str(self.once(f"{field} {given}", look))

    def inputs(self, spec: Run) -> list[Path]:
        """Return the manifests of a run's inputs, for use on a machine that does not have the inputs."""
        read = [(Path(path), "content") for script in scripts_of(spec).values() for path in script.reads.values()]
        read += [one for given in spec.outside_paths.values() for one in given]
        return [file for path, how in read for file in self.manifests.files(path, how)]


def _path_of(text: str | None) -> Path | None:
    return Path(text) if text else None

"""What a run reads of the outside world: fingerprints of files and folders, what was found there, and what is missing.

What to look for, a stage's declaration says. What is not on this disk goes by what it was: by the home's manifest of that path, or by the
record of the experiment's last run.
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


@dataclass
class ExternalInputs:
    """Looks for what the runs of a plan read, each thing once: a `star.spec.outside.Outside`.

    Args:
        stages: that are to be reached.
        rows: labels of the rows, and the first run of each.
        recorded_rows: asked once, and only for what is not here: row label -> what the experiment's record holds of its first run.
    """

    home: Home
    stages: Sequence[str]
    rows: Sequence[tuple[str, Run]]
    recorded_rows: Callable[[], Mapping[str, dict[str, Any]]]
    missing: list[str] = field(default_factory=list)
    """What is needed and not here, and what does not fit."""
    notes: list[str] = field(default_factory=list)
    """What was found in the data, as sentences for `plan` and `run`."""
    assumed: list[str] = field(default_factory=list)
    """What is not here, and counts as what it was elsewhere."""

    def __post_init__(self) -> None:
        self.manifests = Manifests(self.home)
        self._cache: dict[str, Any] = {}
        self._is_needed = True
        """Whether the stage that is looked for now is to be reached."""

    @property
    def data_home(self) -> Path:
        """The folder of data sets that this program fetches."""
        return self.home.data

    def of(self, spec: Run) -> tuple[dict[str, str], Run]:
        """Fingerprints of all that a run reads, and the run as it can be with what is there.

        Raises:
            DataError: what is there is not what the spec says.
        """
        scripts = scripts_of(spec)
        found: dict[str, str] = {}
        for name, stage in spec.pipeline.items():
            self._is_needed = name in self.stages
            if name in scripts:
                found[source_of(name)] = self._script(name, scripts[name])
            elif stage.look is not None:
                fingerprint = resolve_name(stage.look)(spec, self)
                if fingerprint is not None:
                    found[str(stage.source)] = fingerprint
        self._is_needed = True
        return found, spec if spec.settle is None else resolve_name(spec.settle)(spec, self)

    def _script(self, stage: str, script: ScriptStage) -> str:
        """How a key names a script's files and what it reads."""

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
        """Of a file, or of all files of a folder, whatever they are called."""
        return (
            self.manifests.file(path) if path.is_file() else self.manifests.tree(Tree.of(path, ("",), states=True), how)
        )

    def once(self, place: str, look: Callable[[], Any]) -> Any:
        """What `look` gave when it was first asked for under this name."""
        if place not in self._cache:
            self._cache[place] = look()
        return self._cache[place]

    def lacks(self, reason: str) -> None:
        """What is needed and not here, or does not fit; nothing where no target needs it."""
        if self._is_needed and reason not in self.missing:
            self.missing.append(reason)

    def note(self, text: str) -> None:
        """What was found."""
        if text not in self.notes:
            self.notes.append(text)

    def recorded(self, source: str, field: str, given: str) -> Mapping[str, Any] | None:
        """A row of the experiment's last run that read what `given` stands for now: the row of the same label had a folder or file
        of the same name there. None where there is none, or rows say different things."""
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
        """How keys named what is not here, when it was; else ABSENT."""
        row = self.recorded(source, field, given)
        return ABSENT if row is None else str(row["sources"][source])

    def file(self, source: str, field: str, given: str, what: str) -> str:
        """The fingerprint of a file.

        Raises:
            DataError: it is a folder, or is not what its name says.
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
        """The files that hold what is known of a run's inputs, for whoever has not got these."""
        read = [(Path(path), "content") for script in scripts_of(spec).values() for path in script.reads.values()]
        read += [one for given in spec.paths.values() for one in given]
        return [file for path, how in read for file in self.manifests.files(path, how)]


def _path_of(text: str | None) -> Path | None:
    return Path(text) if text else None

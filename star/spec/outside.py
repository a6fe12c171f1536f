"""What the `look` function of a stage may ask about external files while a run is planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

ABSENT = "absent"
"""Fingerprint of files that are not here and never were. Their experiment can be planned, but not run."""


class Outside(Protocol):
    """Looks at files and folders, each once per plan, and collects what to tell the user about them.

    A file that is not here counts as what it was: by the home's manifest of that path, or by the record of the
    experiment's last run.
    """

    manifests: Any
    """A `star.data.manifests.Manifests`: fingerprints that the home remembers."""

    @property
    def is_needed(self) -> bool:
        """Whether a target needs the stage that is looked for: only then is what a file holds checked."""

    @property
    def data_home(self) -> Path:
        """The folder of data sets that this program fetches."""

    def once(self, place: str, look: Callable[[], Any]) -> Any:
        """The result of `look()`, which is called only once for each `place`."""

    def lacks(self, reason: str) -> None:
        """Report, as a sentence, what keeps the experiment from running. Nothing happens if no target needs it."""

    def note(self, text: str) -> None:
        """Report what was found, as a sentence that `plan` and `run` print."""

    def file(self, source: str, field: str, given: str, what: str) -> str:
        """The fingerprint of a file.

        Args:
            source: the name under which records keep it.
            field: the dotted path of the field that gives it.
            what: what should be there, for the message if it is missing.

        Raises:
            DataError: it is a folder, or is not what its name says.
        """

    def content(self, path: Path, how: str = "content") -> str:
        """The fingerprint of a file, or of all files of a folder; `how` is `content`, or `sizes` for folders."""

    def before(self, source: str, field: str, given: str) -> str:
        """The fingerprint that a missing file or folder had in the experiment's last run; ABSENT if there is none."""

    def recorded(self, source: str, field: str, given: str) -> Mapping[str, Any] | None:
        """The row of the experiment's last run that read what `given` names; None if there is none, or they differ."""


Paths = Mapping[str, Sequence[tuple[Path, str]]]
"""Source -> files and folders that a run names for it, each with how keys identify it: by `content` or by `sizes`."""

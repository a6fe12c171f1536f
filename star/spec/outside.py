"""What a stage's declaration may ask of the outside world while a run is planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

ABSENT = "absent"
"""The fingerprint of what is not here and never was: its experiment can be planned, not run."""


class Outside(Protocol):
    """Looks at files and folders, each once in a plan, and keeps what there is to say of them.

    What is not here goes by what it was: by the home's manifest of that path, or by the record of the experiment's last run.
    """

    manifests: Any
    """A `star.data.manifests.Manifests`: fingerprints that the home remembers."""

    @property
    def data_home(self) -> Path:
        """The folder of data sets that this program fetches."""

    def once(self, place: str, look: Callable[[], Any]) -> Any:
        """What `look` gave when it was first asked for under this name."""

    def lacks(self, reason: str) -> None:
        """What is needed and not here, or does not fit, as a sentence: the experiment cannot run. Nothing where no target needs it."""

    def note(self, text: str) -> None:
        """What was found, as a sentence for `plan` and `run`."""

    def file(self, source: str, field: str, given: str, what: str) -> str:
        """The fingerprint of a file.

        Args:
            source: the name under which records keep it.
            field: the dotted path that gives it.
            what: what should lie there, for whom it does not.

        Raises:
            DataError: it is a folder, or is not what its name says.
        """

    def content(self, path: Path, how: str = "content") -> str:
        """Of a file, or of all files of a folder, whatever they are called."""

    def before(self, source: str, field: str, given: str) -> str:
        """How keys named what is not here, when it was; else ABSENT."""

    def recorded(self, source: str, field: str, given: str) -> Mapping[str, Any] | None:
        """The row of the experiment's last run that read what `given` stands for now; None where there is none, or several differ."""


Paths = Mapping[str, Sequence[tuple[Path, str]]]
"""Source -> the files and folders that a run gives for it, each with what names it in keys: `content`, or `sizes`."""

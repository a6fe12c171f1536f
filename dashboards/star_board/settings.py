"""Settings of a board: what it shows, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from star.errors import StarError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Settings:
    """Settings of one board.

    Args:
        home: folder of ledger and jobs.
        tracking_uri: URI of MLflow's store.
        token: secret with which a viewer may change things; None: nobody may.
        hosts: names by which the board may be addressed, besides those of loopback.
        experiments: folder whose YAML files may be run from the board.
        out: folder where such a run writes its report.
        mlflow_ui, optuna_ui: addresses to link to; None: no links.
        https: whether browsers use https, through a proxy.
    """

    home: Path
    tracking_uri: str
    token: str | None = None
    hosts: tuple[str, ...] = ()
    experiments: Path = Path("experiments")
    out: Path = Path("reports")
    mlflow_ui: str | None = None
    optuna_ui: str | None = None
    https: bool = False

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Host names by which the board may be addressed, in lower case and without ports."""
        return frozenset((*LOOPBACK, *(host.lower() for host in self.hosts)))


def read_token(file: Path | None, given: str | None) -> str | None:
    """The token in a file, else the one given (from the environment), else None.

    Raises:
        StarError: the file cannot be read, or the token has fewer than SHORTEST_TOKEN characters.
    """
    where = f"--token-file {file}" if file is not None else "STAR_BOARD_TOKEN"
    if file is not None:
        try:
            given = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise StarError(f"{where}: cannot be read: {getattr(error, 'strerror', error)}.") from None
    elif not given:
        return None
    token = given.strip()  # as one that is typed in is
    if len(token) < SHORTEST_TOKEN:
        raise StarError(
            f"{where}: holds {len(token)} characters; give at least {SHORTEST_TOKEN}, such as `openssl rand -hex 24` prints."
        )
    return token

"""The ledger and the tracking store of a home."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from star.ledger.store import Ledger, read_ledger
from star.rundir import Home

if TYPE_CHECKING:
    from star.tracking import Tracker


def existing_ledger(home: Home, file: str = "experiments/table4.yaml") -> Ledger:
    """The ledger of a home in which something ran.

    Raises:
        DataError: nothing ever did.
    """
    ledger = read_ledger(home)
    if ledger is None:
        from star.cli.status import nothing_yet

        raise nothing_yet(home, file)
    return ledger


def connect(home: Home) -> Tracker:
    """The home's own MLflow database, or the server that MLFLOW_TRACKING_URI names."""
    from star.tracking import Tracker

    return Tracker(tracking_uri(home), None if os.environ.get("MLFLOW_TRACKING_URI") else home.artifacts)


def tracking_uri(home: Home) -> str:
    """Of the same."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.mlflow}"

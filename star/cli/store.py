"""The ledger and the tracking store of a home."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from star.errors import SpecError
from star.ledger.store import Ledger, read_ledger
from star.rundir import Home
from star.sqlite_file import url_of
from star.tracking.reader import Reader, open_reader, without_password
from star.words import shown

if TYPE_CHECKING:
    from star.tracking.writer import Tracker

URI_VARIABLE = "MLFLOW_TRACKING_URI"
KINDS = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
"""Schemes of tracking addresses that MLflow takes. A folder is not legal: MLflow has given up keeping runs in one."""


def existing_ledger(home: Home, file: str = "experiments/table4.yaml") -> Ledger:
    """The ledger of a home in which something ran.

    Raises:
        NotFoundError: nothing ever ran there.
    """
    ledger = read_ledger(home)
    if ledger is None:
        from star.cli.status import nothing_yet

        raise nothing_yet(home, file)
    return ledger


def connect(home: Home) -> Tracker:
    """A tracker for the home's own MLflow database, or for the store that MLFLOW_TRACKING_URI names."""
    from star.tracking.writer import Tracker

    return Tracker(tracking_uri(home), None if os.environ.get(URI_VARIABLE) else home.artifacts)


def check_tracking(home: Home) -> None:
    """Check that the tracking store can be used, as far as that is seen without asking a server.

    Raises:
        SpecError: MLFLOW_TRACKING_URI is of no kind that MLflow knows, or names a folder that is not there.
        LedgerError: the home's own database is damaged, or another version's.
    """
    from star.tracking.writer import check_store, sqlite_path

    uri = tracking_uri(home)
    path = sqlite_path(uri)
    if path is not None:
        check_store(path)
        if not path.parent.is_dir() and os.environ.get(URI_VARIABLE):
            raise SpecError(f"{URI_VARIABLE}: {shown(path.parent)} is no folder; make it, or give another address.")


def reader_of(home: Home) -> Reader:
    """Check the tracking store, as `check_tracking` does, and open it for reading."""
    check_tracking(home)
    return open_reader(tracking_uri(home), None if os.environ.get(URI_VARIABLE) else home.artifacts)


def tracking_uri(home: Home) -> str:
    """The address of the tracking store: MLFLOW_TRACKING_URI, or the home's own SQLite file.

    Raises:
        SpecError: MLFLOW_TRACKING_URI is of no kind that MLflow knows.
    """
    uri = os.environ.get(URI_VARIABLE)
    if uri is None or not uri.strip():
        return url_of(home.mlflow)
    kind = uri.partition(":")[0].partition("+")[0].lower()
    if ":" not in uri or kind not in KINDS:
        raise SpecError(
            f"{URI_VARIABLE}: {without_password(uri)!r} is the address of no tracking store; give http(s)://HOST:PORT of a server, or "
            "sqlite:///, postgresql:// or mysql:// of a database."
        )
    return uri

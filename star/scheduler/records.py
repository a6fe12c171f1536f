"""The record of an experiment's last run: where it is, and what it holds of each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from star.rundir import Home, read_json


def record_path(home: Home, name: str, profile: str) -> Path:
    """Path of the record of an experiment at a profile; `run` writes it, `reindex` rebuilds the ledger from it."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in profile)
    return home.experiments / f"{name}@{kept}.json"


def written_folder(home: Home, name: str, profile: str) -> Path:
    """Folder of the YAML files that reproduce the experiment as it was last run."""
    return record_path(home, name, profile).with_suffix("")


def recorded_rows(home: Home, name: str, profile: str) -> dict[str, dict[str, Any]]:
    """Return row label -> what the record holds of the row's first run; empty where there is no record."""
    found = read_json(record_path(home, name, profile)) or {}
    rows: dict[str, dict[str, Any]] = {}
    for row in found.get("rows", []):
        rows.setdefault(row["row"], row)
    return rows

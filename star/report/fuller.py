"""Whether a report that lies there says more than the one that would take its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from star.report.write import PROVENANCE, Report, provenance
from star.rundir import read_json


def kept_back(report: Report, folder: Path) -> str | None:
    """Why a report should not be written over what its folder holds; None where it may be."""
    before, now = numbers(read_json(folder / PROVENANCE) or {}), numbers(json.loads(provenance(report, [])))
    if now >= before:
        return None
    return f"{folder / 'report.md'} was kept: it holds {before} numbers, and the new one would hold {now}"


def numbers(provenance: dict[str, Any]) -> int:
    """How many measured numbers a report shows, by its provenance; of one without a table, how many runs."""
    cells = [cell for cell in provenance.get("cells", ()) if "sources" in cell]
    return sum(len(cell["sources"]) for cell in cells) if cells else len(provenance.get("runs", {}))


def index_kept_back(out: Path, entries: int) -> str | None:
    """As `kept_back`, of an index with so many experiments."""
    path = out / "index.md"
    head = path.read_text().split("\n\n")[1:2] if path.is_file() else []
    before = sum(line.startswith("- [") for part in head for line in part.splitlines())
    if entries >= before:
        return None
    return f"{path} was kept: it has {before} experiments and searches, and the new one would have {entries}"


def trials_kept_back(folder: Path, trials: int) -> str | None:
    """As `kept_back`, of a search's report with so many trials."""
    path = folder / "trials.csv"
    before = max(0, path.read_text().count("\n") - 1) if path.is_file() else 0
    return (
        None
        if trials >= before
        else f"{folder / 'report.md'} was kept: it has {before} trials, and the new one would have {trials}"
    )

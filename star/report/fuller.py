"""Whether an existing report holds more than the one that would replace it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from star.report.write import PROVENANCE, Report, provenance
from star.rundir import read_json


def kept_back(report: Report, folder: Path) -> str | None:
    """Why a report must not replace the one in its folder: it has fewer numbers. None if it may."""
    before, now = numbers(read_json(folder / PROVENANCE) or {}), numbers(json.loads(provenance(report, [])))
    if now >= before:
        return None
    return f"{folder / 'report.md'} was kept: it holds {before} numbers, and the new one would hold {now}"


def numbers(provenance: dict[str, Any]) -> int:
    """Count the measured numbers in a report's provenance; without a table, its runs."""
    cells = [cell for cell in provenance.get("cells", ()) if "sources" in cell]
    return sum(len(cell["sources"]) for cell in cells) if cells else len(provenance.get("runs", {}))


def index_kept_back(out: Path, entries: int) -> str | None:
    """Why an index with `entries` experiments and searches must not replace the one in `out`; None if it may."""
    path = out / "index.md"
    head = path.read_text().split("\n\n")[1:2] if path.is_file() else []
    before = sum(line.startswith("- [") for part in head for line in part.splitlines())
    if entries >= before:
        return None
    return f"{path} was kept: it has {before} experiments and searches, and the new one would have {entries}"


def trials_kept_back(folder: Path, trials: int) -> str | None:
    """Why a search's report with `trials` trials must not replace the one in its folder; None if it may."""
    path = folder / "trials.csv"
    before = sum(1 for _ in csv.DictReader(io.StringIO(path.read_text()))) if path.is_file() else 0
    return (
        None
        if trials >= before
        else f"{folder / 'report.md'} was kept: it has {before} trials, and the new one would have {trials}"
    )

"""Whether a report that is there is the one that would be written now, so that nothing has to be drawn again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from dataclasses import asdict
from pathlib import Path

from star.report.evidence import Evidence
from star.report.published import published_of
from star.report.write import PROVENANCE
from star.rundir import Home, read_json, write_json

LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy", "seaborn")
"""Packages that a report's numbers and pictures come from."""


def fingerprint(evidence: Evidence, code: str, *options: str | None) -> str:
    """A hash of everything that a report is made of.

    Curves and files are not read for it: how much of each job is delivered to the tracker stands for them.

    Args:
        code: digest of the code that writes the report.
        options: what else decides its contents.
    """
    experiment, plan = evidence.experiment, evidence.plan
    made_of = {
        "code": [code, sys.version, *(importlib.metadata.version(name) for name in LIBRARIES)],
        "options": options,
        "rejudged": list(evidence.rejudged),
        "experiment": [experiment.profile, experiment.spec.model_dump_json()],
        "published": published_of(experiment).model_dump_json(),
        "rows": [
            [row.label, row.row.model_dump_json(), row.axes, *(run.model_dump_json() for run in row.runs[:1])]
            for row in experiment.variants
        ],
        "runs": [[run.label, run.seed, run.key, run.stages] for run in plan.runs],
        "tracked": {key: asdict(run) for key, run in evidence.tracked.items()},
        "delivered": evidence.delivered,
        "jobs": {key: job.state for key, job in evidence.jobs.items()},
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def is_unchanged(home: Home, folder: Path, found: str) -> bool:
    """Whether the report in `folder` was made of what has the fingerprint `found`, and all its files are as written."""
    known = read_json(_place(home, folder)) or {}
    return known.get("fingerprint") == found and all(
        _digest(folder / name) == digest for name, digest in known["files"].items()
    )


def remember(home: Home, folder: Path, found: str) -> None:
    """Keep the fingerprint of the report that was written to `folder`, with the digests of its files."""
    names = [PROVENANCE, *(read_json(folder / PROVENANCE) or {})["files"]]
    place = _place(home, folder)
    place.parent.mkdir(exist_ok=True)
    write_json(place, {"fingerprint": found, "files": {name: _digest(folder / name) for name in names}})


def _place(home: Home, folder: Path) -> Path:
    return home.written / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.json"


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None

"""`star-exp evaluate` and `reference`: which files, which network; tensors are another process's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from star.data import inception_file
from star.rundir import Home


def score_files(
    home: Path, reference: Path, samples: Path | None, write: Path | None, weights: Path | None, **options: Any
) -> int:
    """Run the request in a process of its own; returns its exit code."""
    place = Home(home)
    request = {
        "reference": str(reference),
        "samples": None if samples is None else str(samples),
        "write": None if write is None else str(write),
        "weights": str(weights or inception_file.kept(place.data)),
        "threads": os.cpu_count() or 1,
        "cache": str(place.references),
        **options,
    }
    command = [sys.executable, "-m", "star.score_files", json.dumps(request)]
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal sent it to both; let the other one end first
            process.wait()
            return 130

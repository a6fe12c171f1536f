"""`star-exp evaluate` and `reference`: find the files and the network; another process works with tensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from star.data import inception_file
from star.devices import usable_cores
from star.errors import StarError
from star.rundir import Home


def score_files(
    home: Path, reference: Path, samples: Path | None, write: Path | None, weights: Path | None, **options: Any
) -> int:
    """Score or describe the images in a process of its own; returns its exit code, 130 after Ctrl-C."""
    place = Home(home)
    if weights and options["extractor"] != "inception":
        raise StarError(f"--weights {weights}: is for --extractor inception; {options['extractor']} has its own.")
    file = weights or inception_file.kept(place.data)
    request = {
        "reference": str(reference),
        "samples": None if samples is None else str(samples),
        "write": None if write is None else str(write),
        "weights": str(file / inception_file.INCEPTION_FILE if file.is_dir() else file),
        "threads": usable_cores(),
        "cache": str(place.references),
        "parent": os.getpid(),
        **options,
    }
    command = [sys.executable, "-m", "star.score_files", json.dumps(request)]
    # in a session of its own: Ctrl-C is this process's to handle, and the other ends with it
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            return 130

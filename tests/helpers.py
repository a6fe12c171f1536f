"""What several tests use: the command line in its own process, and a spec that trains in seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from star.data.codes import CodeStore
from star.data.sharded import ShardedArray
from star.spec.load import load
from star.spec.run import RunSpec

ROOT = Path(__file__).parent.parent
DATA = ROOT / "runs" / "data" / "fashion-mnist"
TINY = ROOT / "tests" / "tiny.yaml"


def star_exp(*arguments: str | Path, home: Path | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in its own process."""
    command = [sys.executable, "-m", "star.cli", *map(str, arguments)]
    if home is not None:
        command += ["--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload, no-any-return]


def write_store(folder: Path, codes: np.ndarray, labels: np.ndarray) -> CodeStore:
    """A code store with this content."""
    for name, values, kind in (("codes", codes, np.uint16), ("labels", labels, np.int64)):
        array = ShardedArray(folder / "parts", name, values.shape, kind)
        array.prepare()
        for shard, rows in array.missing(0, 1):
            array.write(shard, values[rows])
        array.finish(folder)
    return CodeStore(folder)


def tiny(**changes: Any) -> RunSpec:
    """The first run of tests/tiny.yaml, with `section__field=value` changes."""
    values = load(TINY).variants[0].runs[0].model_dump()
    for path, value in changes.items():
        section, field = path.split("__")
        values[section][field] = value
    return RunSpec.model_validate(values)

"""`python -m tests.light.worker JOB_DIR`: a worker whose stage counts, checkpoints, and writes what can be checked.

LIGHT_STEPS and LIGHT_SECONDS (of one step) say how long it takes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from star.errors import Stopped
from star.rundir import JobDir, MetricLog, read_json, write_bytes, write_json
from star.spec.graph import STAGES
from star.worker import finish, main, provenance


def work(job: dict[str, Any], folder: JobDir, stop: Callable[[], bool]) -> None:
    """As a stage does: resume, record, checkpoint, stop when asked, output, result."""
    started = time.time()
    steps, seconds = int(os.environ.get("LIGHT_STEPS", "1")), float(os.environ.get("LIGHT_SECONDS", "0"))
    shutil.rmtree(folder.scratch, ignore_errors=True)
    folder.scratch.mkdir()
    folder.checkpoints.mkdir(exist_ok=True)
    metrics = MetricLog(folder.metrics)
    state = folder.checkpoints / "state.json"
    done = (read_json(state) or {"done": 0})["done"]
    for step in range(done + 1, steps + 1):
        time.sleep(seconds)
        metrics.record(step, {"loss": 1 / step})
        write_json(state, {"done": step}, durable=False)
        if stop():
            raise Stopped
    content = made(job["key"], {name: value(Path(path) / "out") for name, path in job["inputs"].items()})
    write_bytes(folder.scratch / "value.txt", content, durable=False)
    metrics.close()
    with (folder.path / "done.txt").open("a") as file:
        file.write(f"{job['attempt']}\n")
    numbers = dict.fromkeys((name.split("}/")[-1] for name in STAGES[job["stage"]].results), 0.5)
    finish(job, folder, started, numbers, provenance(job, None, 1, 1))


def value(out: Path) -> str:
    """What a job made; it must be whole."""
    content = (out / "value.txt").read_bytes()
    text, _, digest = content.rpartition(b"\n")
    assert hashlib.sha256(text).hexdigest().encode() == digest, f"half a file: {out}"
    return digest.decode()


def made(key: str, inputs: dict[str, str]) -> bytes:
    """A file that says what it was made of, and carries its own checksum."""
    text = "\n".join([key, *(f"{name} {digest}" for name, digest in sorted(inputs.items())), "x" * 20000]).encode()
    return text + b"\n" + hashlib.sha256(text).hexdigest().encode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], work))

"""`python -m tests.light.worker JOB_DIR`: a worker whose stage counts, checkpoints, and writes what can be checked.

LIGHT_STEPS and LIGHT_SECONDS (of one step), or `light` in job.json, say how long it takes. LIGHT_EXIT makes it end otherwise:
`user` by a user's mistake, `memory`, `bug`, `ecc`, `disk`, or a number; LIGHT_ONLY names the one job that does.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from star.errors import DataError, Stopped
from star.metric_log import MetricLog
from star.pipeline import STAGES
from star.rundir import JobDir, read_json, write_bytes, write_json
from star.worker import finish, main, provenance

USUAL = {"steps": "1", "seconds": "0", "exit": "", "only": ""}


def work(job: dict[str, Any], folder: JobDir, stop: Callable[[], bool]) -> None:
    """As a stage does: resume, record, checkpoint, stop when asked, output, result."""
    started = time.time()
    wants = {name: os.environ.get(f"LIGHT_{name.upper()}", usual) for name, usual in USUAL.items()} | job.get(
        "light", {}
    )
    steps, seconds = int(wants["steps"]), float(wants["seconds"])
    shutil.rmtree(folder.scratch, ignore_errors=True)
    folder.scratch.mkdir()
    folder.checkpoints.mkdir(exist_ok=True)
    (folder.path / "gpus.txt").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "as they are"))
    metrics = MetricLog(folder.metrics)
    state = folder.checkpoints / "state.json"
    done = (read_json(state) or {"done": 0})["done"]
    for step in range(done + 1, steps + 1):
        time.sleep(seconds)
        metrics.record(step, {"loss": 1 / step})
        write_json(state, {"done": step}, durable=False)
        if stop():
            raise Stopped
    if wants["only"] in ("", job["key"]):
        misbehave(str(wants["exit"]))
    content = made(job["key"], {name: value(Path(path) / "out") for name, path in job["inputs"].items()})
    write_bytes(folder.scratch / "value.txt", content, durable=False)
    metrics.close()
    with (folder.path / "done.txt").open("a") as file:
        file.write(f"{job['attempt']}\n")
    numbers = dict.fromkeys((name.split("}/")[-1] for name in STAGES[job["stage"]].results), 0.5)
    if os.environ.get("LIGHT_BOWL"):
        numbers |= {name: number for name, number in bowl(job["spec"]).items() if name in numbers}
    finish(job, folder, started, numbers, provenance(job, None, 1, 1))


def bowl(spec: dict[str, Any]) -> dict[str, float]:
    """Numbers that depend on alpha, beta and r, as a search wants them: the best is at 2, 1, 0.3; less after fewer steps."""
    own = spec["selfguided"]
    alpha, beta, ratio = own["mim_weight"], own["contrastive_weight"], own["mask_ratio"]
    away = ((alpha - 2) / 4) ** 2 + ((beta - 1) / 2) ** 2 + (ratio - 0.3) ** 2
    return {"accuracy": 1 - away - (0.1 if spec["optim"]["stop_at_step"] else 0.0), "val_nll": 3 + alpha / 4}


def misbehave(how: str) -> None:
    """End as a job may that has no result."""
    if how == "user":
        raise DataError("nowhere is no folder")
    if how == "memory":
        raise MemoryError("no room for 8 images")
    if how == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if how == "bug":
        raise ValueError("a slip")
    if how == "ecc":
        print("GPU 0: uncorrectable ECC error encountered", file=sys.stderr)
        raise RuntimeError("CUDA error")
    if how:
        os._exit(int(how))


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

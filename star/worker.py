"""A worker runs the stage of one job: `python -m star.worker JOB_DIR`.

It reads job.json, runs the stage, moves the output into place, and writes result.json last. It uses neither ledger nor
tracker.

Exit codes: 0 done; 2 the user's mistake; 3 another worker holds this job, or a newer attempt has begun; 70 failed; 74 the
disk is full; 75 stopped on request; 76 out of time.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import platform
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import star
from star.errors import FULL, PASSING, DataError, ScriptError, StarError, Stopped, has_errno
from star.launch import Heartbeat, follow_parent, follow_starter, is_child, launch_torchrun
from star.metric_log import MetricLog
from star.rundir import BUSY, DONE, FAILED, NO_SPACE, PREEMPTED, USER_ERROR, JobDir, listing, read_json, write_json
from star.scratch import near
from star.spec.builtin import builtin_stages
from star.torch_setup import keep_freed_memory, repeatable
from star.usage import Usage
from star.words import counted

PRELOAD = (
    "torch._dynamo",  # which the first optimizer of a process imports
    "star.ranks",
    "star.spec.run_class",
    *(stage.run.partition(":")[0] for stage in builtin_stages().values() if stage.run),
)
"""Modules that jobs import; a fork server imports them once for all its workers."""
PROGRESS_EVERY = 0.5
"""Seconds between writes of progress.json."""
MAY_BE_INFINITE = ("psnr",)
"""Names of results that may be infinite: PSNR is, where images are decoded exactly."""
log = logging.getLogger("star.worker")


Work = Callable[[dict[str, Any], JobDir, Callable[[], bool]], None]
"""What a worker does with its job, given job.json's content, the folder, and a function that says whether to stop."""


def main(path: str, work: Work | None = None) -> int:
    """Run the job in `path`; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    job_dir = JobDir(Path(path))
    job = json.loads(job_dir.job.read_text())
    if os.environ.get("STAR_ATTEMPT", str(job.get("attempt", 0))) != str(job.get("attempt", 0)):
        log.error("attempt %s is over before it began: a newer one is at %s", os.environ["STAR_ATTEMPT"], job_dir.path)
        return BUSY
    is_script = bool(job.get("script"))
    work = work or (_call if is_script else _run)
    follow_starter()
    if job.get("processes", 1) * job.get("nodes", 1) > 1 and not is_script and not is_child():
        return DONE if job_dir.is_complete() else launch_torchrun(job_dir, job)
    stop = _Stop()
    if is_child():
        follow_parent()
        if int(os.environ["RANK"]) > 0:
            return _guarded(work, job, job_dir, stop)
    with job_dir.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.error("another worker holds %s", job_dir.path)
            return BUSY
        except OSError as error:
            log.warning(
                "%s: this file system has no locks (%s); attempts are told apart by their number", job_dir.path, error
            )
        if job_dir.is_complete():
            return DONE
        if not is_child():  # so that one found there afterwards is this attempt's
            job_dir.failure.unlink(missing_ok=True)
        with Heartbeat(job_dir, job.get("attempt", 0)), Usage(job_dir, whole=is_child()):
            return _guarded(work, job, job_dir, stop)


def _guarded(work: Work, job: dict[str, Any], job_dir: JobDir, stop: _Stop) -> int:
    try:
        work(job, job_dir, stop)
        return DONE
    except KeyboardInterrupt:
        return PREEMPTED
    except Exception as error:  # the boundary of the process: everything is reported, nothing is swallowed
        return _failed(error, job_dir)


class _Stop:
    """Returns, when called, whether SIGTERM or SIGUSR1 has come."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        log.info("%s: stopping at the next step", signal.Signals(number).name)
        self.asked = True

    def __call__(self) -> bool:
        return self.asked


def _failed(error: Exception, job_dir: JobDir) -> int:
    stopped, passing = isinstance(error, Stopped), has_errno(error, PASSING)
    user = isinstance(error, StarError) and not passing
    plain = isinstance(error, StarError | ScriptError)  # no traceback: the script's own is in the log
    if stopped:
        log.info("stopped on request: %s", error)
    else:
        log.error("%s", error if plain else traceback.format_exc())
    text = str(error) if plain or stopped else "".join(traceback.format_exception_only(error)).strip()
    full = has_errno(error, FULL)
    try:
        if not job_dir.failure.exists():  # of several processes the first tells why; the others only lost a peer
            told = {"class": type(error).__name__, "message": text, "user": user, "passing": passing}
            write_json(job_dir.failure, told)
    except OSError as second:  # where the disk is full there may be no room for this either: the exit code tells
        log.error("%s", second)
        full = full or has_errno(second, FULL)
    return PREEMPTED if stopped else NO_SPACE if full else USER_ERROR if user else FAILED


def _run(job: dict[str, Any], job_dir: JobDir, stop: Callable[[], bool]) -> None:
    started = time.time()
    threads = int(job["threads"])
    keep_freed_memory()
    repeatable(threads)
    from star.ranks import join, leave
    from star.spec.run_class import parse_run
    from star.stages.context import Context
    from star.stages.own import own_stage

    spec: Any = parse_run(job["spec"])
    plugins = {digest: Path(folder) for digest, folder in (job.get("plugins") or {}).items()}
    declared = spec.pipeline[job["stage"]]
    stage = resolve_name(declared.run) if declared.run else own_stage(spec, job["stage"], plugins)
    device = _device(spec.resources.device_of(job["stage"]))
    ranks = join(device.type)
    log.info(
        "%s %s on %s, %d threads, pid %d, process %d of %d",
        *(job["stage"], job["key"], device, threads, os.getpid(), ranks.rank + 1, ranks.world_size),
    )
    if ranks.is_main:
        shutil.rmtree(job_dir.scratch, ignore_errors=True)
        job_dir.scratch.mkdir()
    metrics = MetricLog(job_dir.metrics) if ranks.is_main else None
    # such a stage stops by itself: it saves first, on all ranks at once
    saves = declared.keeps == "checkpoints"
    progress = _Progress(job_dir if ranks.is_main else None, (lambda: False) if saves else stop, declared.goes_on)
    result = stage(
        Context(
            spec=spec,
            inputs={
                name: _input(JobDir(Path(folder)).out, spec.resources.scratch) for name, folder in job["inputs"].items()
            },
            out=job_dir.scratch,
            checkpoints=job_dir.checkpoints,
            resume_from=[Path(folder) for folder in job.get("resume_from", ())],
            data_home=Path(job["data_home"]),
            device=device,
            threads=threads,
            ranks=ranks,
            record=metrics.record if metrics else lambda step, values: None,
            progress=progress,
            stop=stop,
            plugins=plugins,
        )
    )
    check_result(job["stage"], result)
    leave(ranks)
    if metrics is not None:
        metrics.close()
        finish(job, job_dir, started, result, provenance(job, device, threads, ranks.world_size))


def _call(job: dict[str, Any], job_dir: JobDir, stop: Callable[[], bool]) -> None:
    """Run a stage that is a user's command; torch is not imported here."""
    from star.command import run_command
    from star.spec.run_class import parse_run
    from star.spec.scripts import scripts_of

    started = time.time()
    spec = parse_run(job["spec"])
    result = run_command(job, job_dir, spec, scripts_of(spec)[job["stage"]], stop)
    check_result(job["stage"], result)
    finish(job, job_dir, started, result, provenance(job, None, int(job["threads"]), int(job.get("processes", 1))))


def _input(folder: Path, scratch: str | None) -> Path:
    return near(folder, scratch) if scratch else folder


def check_result(stage: str, result: Mapping[str, float]) -> None:
    """Check that a stage's results are finite, except for MAY_BE_INFINITE: no others may reach a table.

    Raises:
        DataError: some are not; the message names them.
    """
    wrong = [
        name
        for name, value in result.items()
        if not (math.isfinite(value) or (name in MAY_BE_INFINITE and value == math.inf))
    ]
    if wrong:
        values = ", ".join(f"{name} is {result[name]}" for name in wrong)
        raise DataError(
            f"{stage}: {values}; no result is kept. What it was made from has diverged: see the job's log and metrics."
        )


def finish(job: dict[str, Any], job_dir: JobDir, started: float, result: Any, provenance: dict[str, Any]) -> None:
    """Move a stage's output into place, then write result.json: no result is ever there without its output.

    If a newer attempt has begun, the process exits with code 3 instead.
    """
    Heartbeat.check(job_dir, job.get("attempt", 0))
    shutil.rmtree(job_dir.out, ignore_errors=True)  # left by a worker killed between this rename and its result
    job_dir.scratch.rename(job_dir.out)
    seconds = round(time.time() - started, 2)
    write_json(
        job_dir.result,
        {
            "metrics": result,
            "seconds": seconds,
            "finished": time.time(),
            "attempt": job.get("attempt", 0),
            "files": listing(job_dir.out),
            "provenance": provenance,
        },
    )
    shutil.rmtree(job_dir.checkpoints, ignore_errors=True)
    log.info("done in %.1f s: %s", seconds, result)


class _Progress:
    """Writes progress.json at most every PROGRESS_EVERY seconds, and at the end; without a job folder, nothing.

    Raises:
        Stopped: on a call after the worker was asked to stop.
    """

    def __init__(self, job_dir: JobDir | None, stop: Callable[[], bool], next_time: str) -> None:
        self.next_time = next_time
        self.path = job_dir.progress if job_dir else None
        self.stop = stop
        self.started = time.monotonic()
        self.first: int | None = None
        self.next = 0.0

    def __call__(self, done: int, total: int) -> None:
        if self.stop():
            raise Stopped(f"it {self.next_time}")
        now = time.monotonic()  # a clock may be set back
        self.first = done if self.first is None else self.first
        if self.path is not None and (now >= self.next or done == total):
            self.next = now + PROGRESS_EVERY
            rate = (done - self.first) / max(1e-9, now - self.started)
            with suppress(OSError):  # a disk that is full or away for a moment: nothing depends on this file
                write_json(self.path, {"done": done, "total": total, "rate": rate, "time": time.time()}, durable=False)


def _device(wanted: str) -> Any:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise StarError("resources.device: cuda was asked for, but this machine has no usable GPU; use auto or cpu.")
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if wanted != "cpu" and 0 < torch.cuda.device_count() < count:
        raise StarError(
            f"resources: {count} processes asked for, but this machine has {counted(torch.cuda.device_count(), 'GPU')}; "
            "give at most that, or device: cpu."
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def provenance(job: dict[str, Any], device: Any, threads: int, processes: int) -> dict[str, Any]:
    """Return where a result comes from: code, environment, data, machine, command."""
    import importlib.metadata

    snapshot = read_json(Path(job["snapshot"]) / "origin.json") if job.get("snapshot") else None
    content, spec = job.get("content") or {}, job["spec"]
    return {
        "star": star.__version__,
        "code": job["code"],
        "snapshot": snapshot,
        "command": job.get("command"),
        "stage_version": content.get("version"),
        "source": content.get("source"),
        "inputs": content.get("inputs"),
        "seed": spec.get("seed"),
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
        "host": platform.node(),
        "system": platform.platform(),
        "device": _device_name(device),
        "cpu": _cpu(device),
        "gpus": _gpus(device),
        "threads": threads,
        "processes": processes,
        "nodes": job.get("nodes", 1),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _device_name(device: Any) -> str:
    if device is not None and device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    return platform.processor() or platform.machine()


def _cpu(device: Any) -> str:
    """The CPU's model, and the widest vectors that torch uses on it: they set the order of sums, and so the results."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    if device is None:
        return model
    import torch

    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"


def _gpus(device: Any) -> list[dict[str, Any]]:
    """Name, UUID and driver of the GPUs that this job was given."""
    if device is None or device.type != "cuda":
        return []
    from star.devices import visible_gpus

    return [{"name": gpu.name, "uuid": gpu.uuid, "driver": gpu.driver} for gpu in visible_gpus()]


if __name__ == "__main__":
    code = main(sys.argv[1])
    if is_child():
        from star.ranks import exit_now

        exit_now(code)
    sys.exit(code)

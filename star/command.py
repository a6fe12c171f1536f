"""Run a stage that is a command: call it, record what it reports, pass on a request to stop, read its results.

The contract with the script is docs/own-script.md.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from star.errors import DataError, ScriptError, ScriptKilled, StarError, Stopped
from star.process import die_with_parent
from star.rundir import PREEMPTED, USER_ERROR, JobDir
from star.scratch import near
from star.script_output import Reports, last_line, printed, results_of
from star.spec.resources import Resources
from star.spec.run_base import Run
from star.spec.scripts import ScriptStage

TAIL = 1 << 16
"""Bytes of what a script printed that are looked at for its last line."""
POLL = 0.2
"""Seconds between checks of the script and of what it has reported."""
log = logging.getLogger("star.worker")


def run_command(
    job: Mapping[str, Any], job_dir: JobDir, spec: Run, script: ScriptStage, stop: Callable[[], bool]
) -> dict[str, float]:
    """Run the command of a job until it ends; returns its results.

    Args:
        stop: says whether the worker was asked to stop.

    Raises:
        Stopped: it was asked to stop, or ended with exit code 75 to go on another time.
        StarError: the user's mistake: exit code 2, or results that are not as declared.
        ScriptError: any other exit code, a signal, or exit code 75 unasked and with nothing new kept.
    """
    _end_left(job_dir, "of an earlier attempt")
    shutil.rmtree(job_dir.scratch, ignore_errors=True)
    job_dir.scratch.mkdir()
    job_dir.checkpoints.mkdir(exist_ok=True)
    folder = _own_copy(job, job_dir)
    curves, results = _place(script.curves_file, job_dir), _place(script.results_file, job_dir)
    before = _state(job_dir.checkpoints)
    line = _line(job, job_dir, spec, script)
    call = f"calling {shlex.join(line)} in {folder}"
    log.info("%s", call)
    start = job_dir.log.stat().st_size if job_dir.log.exists() else 0  # what the script prints goes there too
    process = _started(line, job, job_dir, folder, script)
    reports = Reports(curves, job_dir)
    asked = False
    try:
        while process.poll() is None:
            reports.carry()
            if stop() and not asked:
                asked = True
                process.send_signal(signal.SIGTERM)
            time.sleep(POLL)
    finally:
        _end(process)
        text = printed(
            job_dir.log, start, call, None if script.patterns else TAIL
        )  # before this worker itself writes more into the log
        _end_left(job_dir, "that it had started")
    try:
        reports.close(whole=process.returncode == 0)
    except DataError as error:
        if process.returncode == 0:
            raise
        log.warning("%s", error)  # it was cut off with the script: why the script ended counts
    _judge(process.returncode, asked, script, _state(job_dir.checkpoints) != before, last_line(text))
    if asked:
        log.warning(
            "it was asked to stop and ended with 0: what it has written counts as the whole; 75 says that it is to go on"
        )
    unreported = [name for name in script.curves if name not in reports.names]
    if unreported:
        log.warning("declared as curves, and not reported: %s", ", ".join(unreported))
    found = results_of(script, job["stage"], results, text)
    if lacking := [name for name in script.attach if not (job_dir.scratch / name).is_file()]:
        log.warning("declared under attach, and not written: %s", ", ".join(lacking))
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _own_copy(job: Mapping[str, Any], job_dir: JobDir) -> Path:
    """Copy the script for this attempt alone, so that what it writes where it runs does not change the kept copy."""
    folder = job_dir.path / "script"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        shutil.copytree(job["script"], folder)
    except FileNotFoundError:
        raise DataError(
            f"{job['script']}: the copy of the script is gone; give the command that planned this again."
        ) from None
    return folder


def _end_left(job_dir: JobDir, whose: str) -> None:
    """Kill processes that a script has started and left, also in sessions of their own, or that a killed worker has left."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("STAR_OUT") == str(job_dir.scratch):
                log.warning("process %d %s still runs; it is ended", process.pid, whose)
                process.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a script: what it has started, and itself where its reports cannot be read."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _place(name: str, job_dir: JobDir) -> Path:
    """Path of a file that the script writes, with `{out}` and `{checkpoints}` filled in."""
    return job_dir.scratch / name.format(out=job_dir.scratch, checkpoints=job_dir.checkpoints)


def _line(job: Mapping[str, Any], job_dir: JobDir, spec: Run, script: ScriptStage) -> list[str]:
    """The command as a list of words, with everything in braces filled in."""
    parameters = getattr(spec, job["stage"]).model_dump()
    resources: Resources = spec.resources
    values: dict[str, Any] = {name: _text(value) for name, value in parameters.items()} | script.reads
    for name, folder in job["inputs"].items():
        out = JobDir(Path(folder)).out
        values[name] = near(out, resources.scratch) if resources.scratch else out
    values |= {
        "seed": spec.seed,
        "out": job_dir.scratch,
        "checkpoints": job_dir.checkpoints,
        "resume": (job.get("resume_from") or [""])[-1],  # the longest
        "threads": job["threads"],
        "processes": resources.processes_of(job["stage"]),
        "device": resources.device_of(job["stage"]),
    }
    line: list[str] = []
    for word in shlex.split(script.command):
        if word == "{parameters}":
            line += _options(parameters)
        else:
            line.append(word.format(**values, parameters=" ".join(_options(parameters))))
    return line


def _options(parameters: Mapping[str, Any]) -> Iterator[str]:
    """Yield parameters as options for argparse: a switch for True, nothing for False."""
    for name, value in parameters.items():
        if value is not False:
            yield f"--{name}"
            yield from () if value is True else (_text(value),)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _started(
    line: list[str], job: Mapping[str, Any], job_dir: JobDir, folder: Path, script: ScriptStage
) -> subprocess.Popen[bytes]:
    threads = str(job["threads"])
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "STAR_OUT": str(job_dir.scratch),
        "STAR_CHECKPOINTS": str(job_dir.checkpoints),
        "PYTHONUNBUFFERED": "1",
        # `python` is the interpreter that the worker has, whatever is on the path
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    for name in ("STAR_ATTEMPT", "STAR_PARENT"):
        environment.pop(name, None)
    paths = environment.pop("PYTHONPATH", "").split(os.pathsep)  # without the platform's own code
    if others := [path for path in paths if path and path != job.get("snapshot")]:
        environment["PYTHONPATH"] = os.pathsep.join(others)
    if script.gpu is False:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    try:
        return subprocess.Popen(
            line,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that a signal to this worker's group reaches it once
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )
    except OSError as error:
        raise StarError(
            f"stages.{job['stage']}.command: {line[0]} cannot be called: {error.strerror}; give a program that is on the PATH of the "
            "machine that runs it, or a file of the script with `python` before it."
        ) from None


def _judge(code: int, asked: bool, script: ScriptStage, kept: bool, said: str) -> None:
    """Raise what an exit code means; nothing for success.

    Args:
        asked: whether the command was asked to stop.
        kept: whether it has left something new in its folder of checkpoints.
        said: the last line that it printed.
    """
    if code == PREEMPTED and not asked and not kept:  # it would do so forever
        raise ScriptError(
            "the command ended with exit code 75, though nobody had asked it to stop, and has kept nothing new"
        )
    if code == PREEMPTED or (asked and code != 0):  # torchrun, for one, ends with 1 when it is asked to stop
        raise Stopped(f"it {'goes on from its last checkpoint' if script.keeps else 'begins again'}")
    if code == USER_ERROR:
        raise StarError(f"the command ended with exit code 2, a mistake in how it was called: {said}")
    if code < 0:
        raise ScriptKilled(f"the command died by signal {-code}: {said}")
    if code:
        raise ScriptError(f"the command ended with exit code {code}: {said}{_hint(said, script)}")


def _hint(said: str, script: ScriptStage) -> str:
    """A hint where a module is not found that lies beside the script and was not copied; else ""."""
    lacking = re.search(r"No module named '(\w+)", said)
    if lacking is None:
        return ""
    places = (Path(script.folder) / f"{lacking[1]}.py", Path(script.folder) / lacking[1])
    beside = next((path for path in places if path.exists()), None)
    pattern = f"{lacking[1]}/**/*.py" if beside is not None and beside.is_dir() else f"{lacking[1]}.py"
    return f". {beside} is not among the script's files: add it to `files: [{pattern}]`" if beside else ""


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Path of each file below a folder -> its size in bytes, and its modification time in nanoseconds."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(OSError):
            state = path.stat()
            found[str(path)] = (state.st_size, state.st_mtime_ns)
    return found

"""The worker's side of a stage that is a command: calls it, carries what it reports, passes a request to stop on, reads its results.

The contract with the script is docs/own-script.md.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from star.errors import DataError, StarError, Stopped
from star.launch import SET_PARENT_DEATH_SIGNAL
from star.rundir import PREEMPTED, USER_ERROR, JobDir, MetricLog, write_json
from star.scratch import near
from star.spec.resources import Resources
from star.spec.run_base import Run
from star.spec.scripts import ScriptStage

CURVES = "curves.jsonl"
RESULTS = "results.json"
POLL = 0.2
"""Seconds between looks at the script and what it has reported."""
log = logging.getLogger("star.worker")


class ScriptError(Exception):
    """A command that ended with another exit code than 0."""


def run_command(
    job: Mapping[str, Any], job_dir: JobDir, spec: Run, script: ScriptStage, stop: Callable[[], bool]
) -> dict[str, float]:
    """Call the command of a job until it ends; returns its results.

    Raises:
        Stopped: it was asked to stop, or has itself said that it goes on another time (exit code 75).
        StarError: the user's mistake: exit code 2, or results that are not as declared.
        ScriptError: any other exit code.
    """
    shutil.rmtree(job_dir.scratch, ignore_errors=True)
    job_dir.scratch.mkdir()
    job_dir.checkpoints.mkdir(exist_ok=True)
    line = _line(job, job_dir, spec, script)
    log.info("calling %s in %s", shlex.join(line), job["script"])
    process = _started(line, job, job_dir, script)
    reports = _Reports(job_dir, script)
    asked = False
    while process.poll() is None:
        reports.carry()
        if stop() and not asked:
            asked = True
            process.send_signal(signal.SIGTERM)
        time.sleep(POLL)
    reports.close()
    _judge(process.returncode, asked, script)
    return _results(job_dir.scratch / RESULTS, script, job["stage"])


def _line(job: Mapping[str, Any], job_dir: JobDir, spec: Run, script: ScriptStage) -> list[str]:
    """The command word by word, everything in braces filled in."""
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
    line = []
    for word in shlex.split(script.command):
        if word == "{parameters}":
            line += _options(parameters)
        else:
            line.append(word.format(**values, parameters=" ".join(_options(parameters))))
    return line


def _options(parameters: Mapping[str, Any]) -> Iterator[str]:
    """As argparse takes them: a switch for what is true, nothing for what is false."""
    for name, value in parameters.items():
        if value is not False:
            yield f"--{name}"
            yield from () if value is True else (_text(value),)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _started(line: list[str], job: Mapping[str, Any], job_dir: JobDir, script: ScriptStage) -> subprocess.Popen[bytes]:
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
    for name in ("STAR_ATTEMPT", "STAR_PARENT", "PYTHONPATH"):
        environment.pop(name, None)
    if script.gpu is False:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    library = ctypes.CDLL(None)
    try:
        return subprocess.Popen(
            line,
            cwd=job["script"],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that a signal to this worker's group comes to it once
            preexec_fn=lambda: library.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0),
        )
    except OSError as error:
        if not Path(job["script"]).is_dir():
            raise DataError(f"{job['script']}: the copy of the script is gone; give the command that planned this again.") from None
        raise StarError(
            f"stages.{job['stage']}.command: {line[0]} cannot be called: {error.strerror}; give a program that is on the PATH of the "
            "machine that runs it, or a file of the script with `python` before it."
        ) from None


def _judge(code: int, asked: bool, script: ScriptStage) -> None:
    """What an exit code means."""
    if code == PREEMPTED or (asked and code in (-signal.SIGTERM, 128 + signal.SIGTERM)):
        raise Stopped(f"it {'goes on from its last checkpoint' if script.keeps else 'begins again'}")
    if code == USER_ERROR:
        raise StarError("the command ended with exit code 2, a mistake in how it was called; see the end of its log.")
    if code:
        how = f"died by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise ScriptError(f"the command {how}; the end of its log says why")


def _results(path: Path, script: ScriptStage, stage: str) -> dict[str, float]:
    """The numbers of results.json.

    Raises:
        StarError: it is not there, not JSON of names and numbers, or lacks a declared one.
    """
    if not script.results and not path.exists():
        return {}
    what = f"stages.{stage}.results"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise StarError(
            f"{what}: the command ended without writing {RESULTS} into {{out}}; write the numbers there as JSON, such as "
            f'{{"{script.results[0]}": 0.5}}.'
        ) from None
    except ValueError as error:
        raise StarError(f"{what}: {RESULTS} is not JSON: {error}; write a mapping of names to numbers.") from None
    if not isinstance(found, dict):
        raise StarError(f"{what}: {RESULTS} holds no mapping of names to numbers.")
    wrong = [name for name, value in found.items() if isinstance(value, bool) or not isinstance(value, int | float)]
    lacking = [name for name in script.results if name not in found]
    if wrong or lacking:
        lacks = f"lacks {', '.join(lacking)}" if lacking else f"has no number at {', '.join(wrong)}"
        raise StarError(f"{what}: {RESULTS} {lacks}; it holds {', '.join(found) or 'nothing'}.")
    more = [name for name in found if name not in script.results]
    if more:
        log.info("kept beside the declared results: %s; a table can name what `results` declares", ", ".join(more))
    return {name: float(value) for name, value in found.items()}


class _Reports:
    """What the script says while it runs: lines of curves.jsonl, `{"step": 3, "loss": 0.5}`, with `"of": 100` also how far it is."""

    def __init__(self, job_dir: JobDir, script: ScriptStage) -> None:
        self.path, self.progress = job_dir.scratch / CURVES, job_dir.progress
        self.metrics = MetricLog(job_dir.metrics)
        self.script, self.offset, self.line = script, 0, 0
        self.started, self.first = time.time(), None

    def carry(self) -> None:
        """Record the lines that are new and whole."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                self.line += 1
                self._record(line)

    def _record(self, line: bytes) -> None:
        try:
            values = json.loads(line)
            step = values.pop("step")
            of = values.pop("of", None)
            numbers = {name: float(value) for name, value in values.items() if value is not None}
            if isinstance(step, bool) or not isinstance(step, int) or step < 0:
                raise ValueError(f"the step {step!r} is no whole number from 0")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{CURVES}:{self.line}: is not as {{"step": 3, "loss": 0.5}}: {type(error).__name__}: {error}.'
            ) from None
        if numbers:
            self.metrics.record(step, numbers)
        if isinstance(of, int):
            now = time.time()
            self.first = step if self.first is None else self.first
            rate = (step - self.first) / max(1e-9, now - self.started)
            write_json(self.progress, {"done": step, "total": of, "rate": rate, "time": now}, durable=False)

    def close(self) -> None:
        """Carry the rest."""
        self.carry()
        self.metrics.close()

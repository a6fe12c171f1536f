"""Build Slurm submissions: which attempts go as one array, under which name, with which options."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from star.scheduler.executor import Start

ARRAY = 500
"""Most jobs in one array; clusters allow 1001 by default."""
LONGEST_NAME = 120


@dataclass(frozen=True)
class Part:
    """Attempts that are submitted together: one job, or an array."""

    starts: tuple[Start, ...]
    dependency: str | None
    """The value of sbatch's `--dependency`; None without one."""

    @property
    def first(self) -> Start:
        """The first attempt; all of them ask for the same resources and options."""
        return self.starts[0]

    @property
    def timeouts(self) -> int:
        """How often Slurm may restart a job that ran out of time."""
        return self.first.resources.timeouts_of(self.first.stage)

    @property
    def python(self) -> str:
        """The command that starts Python on a node."""
        slurm = self.first.resources.slurm_of(self.first.stage)
        interpreter = shlex.quote(slurm.python or sys.executable)
        return f"{slurm.launcher} {interpreter}" if slurm.launcher else interpreter

    def name(self, token: str) -> str:
        """The job's name: experiment, stages, row or number of jobs for people, and `token` to find it again."""
        experiments, stages = (
            list(dict.fromkeys(names)) for names in zip(*(one.title[:2] for one in self.starts), strict=True)
        )
        rows = list(dict.fromkeys(one.title[2] for one in self.starts))
        what = rows[0] if len(rows) == 1 else f"{len(self.starts)}_jobs"
        words = ["+".join(experiments[:2]), "+".join(stages), what]
        text = ".".join(re.sub(r"[^A-Za-z0-9=+_.-]+", "_", word).strip("_") for word in words if word)
        return f"{text[:LONGEST_NAME]}.{token}"

    def parameters(self) -> dict[str, Any]:
        """The options that submitit gives to Slurm, except for the name."""
        code = shlex.quote(str(self.first.code))
        slurm = self.first.resources.slurm_of(self.first.stage)
        path = f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}"
        wanted = asked(self.first) | {"setup": [*(slurm.setup or ()), path], "dependency": self.dependency}
        if self.dependency:
            wanted["additional_parameters"] = {"kill-on-invalid-dep": "yes"} | wanted["additional_parameters"]
        # submitit would set its own `wckey`, which clusters that keep account of them refuse
        return {name: value for name, value in wanted.items() if value is not None} | {"wckey": None}

    def script(self, name: str, folder: Path) -> str:
        """The batch script that submitit would submit."""
        from submitit.slurm.slurm import _make_sbatch_string

        array = {"map_count": len(self.starts)} if len(self.starts) > 1 else {}
        command = f"{self.python} -u -m submitit.core._submit {shlex.quote(str(folder))}"
        return str(_make_sbatch_string(command, folder, job_name=name, **self.parameters(), **array))


def parts_of(starts: Sequence[Start]) -> list[Part]:
    """Group attempts into few arrays.

    Attempts of one array, of any stage, ask for the same, and wait for the same jobs or each for its own element of
    the same arrays.
    """
    groups: dict[str, list[Start]] = {}
    for start in starts:
        slurm = start.resources.slurm_of(start.stage)
        shape = (
            asked(start),
            slurm.setup,
            slurm.python,
            slurm.launcher,
            start.resources.stages[start.stage].keeps,
            slurm.timeouts,
            start.code,
        )
        groups.setdefault(repr((shape, _waits_for(start))), []).append(start)
    parts = []
    for group in groups.values():
        for first in range(0, len(group), ARRAY):
            parts += _with_dependencies(group[first : first + ARRAY])
    return parts


def asked(start: Start) -> dict[str, Any]:
    """The options of sbatch for one attempt."""
    resources, stage = start.resources, start.stage
    slurm = resources.slurm_of(stage)
    processes, memory, gpus = resources.processes_of(stage), resources.memory_gb_of(stage), resources.gpus_of(stage)
    return {
        "time": resources.minutes_of(stage),
        "nodes": resources.nodes_of(stage),
        "ntasks_per_node": 1,
        "cpus_per_task": resources.threads_of(stage) * processes,
        "mem": None if memory is None else f"{max(1, ceil(memory * 1024))}M",
        "gpus_per_node": (f"{slurm.gpu_type}:{gpus}" if slurm.gpu_type else gpus) if gpus else None,
        "partition": slurm.partition,
        "qos": slurm.qos,
        "account": slurm.account,
        "constraint": slurm.constraint,
        "exclude": slurm.exclude,
        "signal_delay_s": slurm.signal_seconds or 90,
        "array_parallelism": slurm.array_parallelism or 256,
        "srun_args": slurm.srun or None,
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, **(slurm.options or {})},
    }


def _numbers(start: Start) -> list[str]:
    return [str(handle["job"]) for handle in start.after]


def _waits_for(start: Start) -> list[str]:
    """Numbers of the jobs and arrays that an attempt waits for, without the array indices."""
    return sorted({number.partition("_")[0] for number in _numbers(start)})


def _with_dependencies(group: list[Start]) -> list[Part]:
    """Make one part of attempts that wait for the same jobs and arrays, or several.

    One is enough if a single dependency can say what each attempt waits for.
    """
    waits = [set(_numbers(start)) for start in group]
    common = set.intersection(*waits)
    own = [sorted(numbers - common) for numbers in waits]
    if not any(own):
        return [Part(tuple(group), _dependency(common, []))]
    places = [{number.partition("_")[2] for number in numbers} for numbers in own]
    order = sorted(range(len(group)), key=lambda i: int(min(places[i], default="0") or 0))
    each = [{str(place)} for place in range(len(group))]
    if len(group) > 1 and [places[i] for i in order] == each and len({len(numbers) for numbers in own}) == 1:
        arrays = sorted({number.partition("_")[0] for number in own[0]})
        return [Part(tuple(group[i] for i in order), _dependency(common, arrays))]
    alike: dict[tuple[str, ...], list[Start]] = {}
    for start, numbers in zip(group, waits, strict=True):
        alike.setdefault(tuple(sorted(numbers)), []).append(start)
    return [Part(tuple(some), _dependency(set(numbers), [])) for numbers, some in alike.items()]


def _dependency(all_of: set[str], arrays: list[str]) -> str | None:
    """Return sbatch's dependency: `afterok` for jobs that all wait for, `aftercorr` for arrays to wait for by index."""
    parts = [f"aftercorr:{':'.join(arrays)}"] if arrays else []
    parts += [f"afterok:{':'.join(sorted(all_of, key=_natural))}"] if all_of else []
    return ",".join(parts) or None


def _natural(number: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", number)]

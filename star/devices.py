"""The cores and GPUs of this machine, and which GPUs a job gets.

A GPU is identified by its UUID: its number changes with CUDA_VISIBLE_DEVICES, with a reboot, and between tools. A job
that says how much memory it needs may share a GPU with others as long as all fit; one that does not has its GPUs alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star.errors import ExecutorError

GIB = 2**30
DRAINED = 0.9
"""Share of a GPU's memory that must be free before a job gets it alone: an earlier job's processes may still exit."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, memory in bytes."""

    uuid: str
    name: str
    memory: int
    free: int
    driver: str = ""
    use: int | None = None
    """Utilization in per cent over the driver's last sampling period; None where the driver does not report it."""


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, and of its control groups' quota, as containers set it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *_quotas()]))


def _quotas(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """The quota of each control group (version 2) around this process, in whole cores."""
    text = groups.read_text() if groups.exists() else ""
    for line in text.splitlines():
        if line.startswith("0::"):
            folder = root / line[3:].lstrip("/")
            for group in (folder, *folder.parents):
                limit = group / "cpu.max"
                quota, _, period = limit.read_text().partition(" ") if limit.is_file() else ("max", "", "")
                if quota != "max":
                    yield math.ceil(int(quota) / int(period))


def visible_gpus() -> list[Gpu]:
    """Return this machine's GPUs as its driver lists them now, without those that CUDA_VISIBLE_DEVICES hides.

    Returns:
        An empty list where there is no driver.

    Raises:
        ExecutorError: there is a driver, but it does not answer.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        found = []
        for handle in handles:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            uuid, name = str(pynvml.nvmlDeviceGetUUID(handle)), str(pynvml.nvmlDeviceGetName(handle))
            found.append(Gpu(uuid, name, int(memory.total), int(memory.free), driver, _use(handle)))
    except pynvml.NVMLError as error:  # not the same as a machine without GPUs
        raise ExecutorError(f"the GPUs' driver does not answer: {error}") from None
    finally:
        pynvml.nvmlShutdown()
    return _chosen(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _use(handle: Any) -> int | None:
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:  # a GPU that is cut into instances has no such number
        return None


def _chosen(gpus: list[Gpu], names: str | None) -> list[Gpu]:
    """Select GPUs as CUDA reads CUDA_VISIBLE_DEVICES: numbers or prefixes of UUIDs, up to the first that is neither."""
    if names is None:
        return gpus
    chosen: list[Gpu] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name.isdecimal() and int(name) < len(gpus):
            chosen.append(gpus[int(name)])
        else:
            matching = [gpu for gpu in gpus if gpu.uuid.startswith(name)]
            if len(matching) != 1:
                break
            chosen.append(matching[0])
    return chosen


def choose(gpus: list[Gpu], held: dict[str, int], count: int, memory: int | None) -> dict[str, int] | None:
    """Choose the fullest `count` GPUs that a job fits on, as UUID -> bytes; None when there is no room.

    Args:
        held: bytes of each GPU that running jobs have claimed.
        memory: bytes that the job needs of each; None: all of it, alone.
    """
    fitting = []
    for gpu in gpus:
        claimed = held.get(gpu.uuid, 0)
        wants = gpu.memory if memory is None else memory
        # what is claimed and not used yet is not free either
        free = min(gpu.free, gpu.memory - claimed) if claimed else gpu.free
        drained = free >= (DRAINED * gpu.memory if memory is None else memory)
        if claimed + wants <= gpu.memory and drained:
            fitting.append((gpu.memory - claimed, gpu.uuid, wants))
    if len(fitting) < count:
        return None
    fitting.sort()  # the fullest first: keep whole GPUs for jobs that want one alone
    return {uuid: wants for _, uuid, wants in fitting[:count]}


ListGpus = Callable[[], list[Gpu]]

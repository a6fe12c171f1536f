"""What a job takes of its machine while it runs: processors, memory, GPUs, as lines beside its metrics."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from star.devices import visible_gpus
from star.errors import ExecutorError
from star.rundir import JobDir, MetricLog, read_metrics

EVERY = 10.0
"""Seconds between samples, as MLflow's own take them. A job that ends before the first leaves none."""
MEGABYTE = 2**20
log = logging.getLogger(__name__)


class Usage:
    """Samples the worker's processes, and the GPUs that it may use, in a thread of its own until it ends.

    Args:
        whole: sample the processes of the worker's parent, which started one for each GPU.
    """

    def __init__(self, job: JobDir, whole: bool = False) -> None:
        self.job, self.whole = job, whole
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="usage", daemon=True)

    def __enter__(self) -> Usage:
        self._thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self._end.set()
        self._thread.join(2)

    def _work(self) -> None:
        import psutil

        root = psutil.Process(os.getppid() if self.whole else os.getpid())
        _processors(root)  # its first answer is since never
        with contextlib.suppress(OSError):  # a full disk is the worker's matter, not this one's
            taken: MetricLog | None = None
            while not self._end.wait(EVERY):
                if taken is None:
                    taken, step = MetricLog(self.job.usage), sum(1 for _ in read_metrics(self.job.usage))
                step += 1
                try:
                    taken.record(step, dict(_sample(root)))
                except psutil.Error:
                    return


def _sample(root: object) -> Iterator[tuple[str, float]]:
    import psutil

    assert isinstance(root, psutil.Process)
    yield "cpu_utilization_percentage", _processors(root)
    memory = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            memory += process.memory_info().rss
    yield "memory_megabytes", memory / MEGABYTE
    try:
        gpus = visible_gpus()
    except ExecutorError as error:
        log.debug("%s", error)
        return
    for number, gpu in enumerate(gpus):
        yield f"gpu_{number}_memory_usage_megabytes", (gpu.memory - gpu.free) / MEGABYTE
        if gpu.use is not None:
            yield f"gpu_{number}_utilization_percentage", float(gpu.use)


_seen: dict[int, object] = {}
"""psutil measures from one question to the next, of the same object."""


def _processors(root: object) -> float:
    """Per cent of one core since the last question, of a process and its children."""
    import psutil

    assert isinstance(root, psutil.Process)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            known = _seen.setdefault(process.pid, process)
            assert isinstance(known, psutil.Process)
            total += known.cpu_percent()
    return total

"""Record a running job's use of CPU, memory and GPUs, as lines of usage.jsonl beside its metrics."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from star.devices import visible_gpus
from star.errors import ExecutorError
from star.metric_log import MetricLog, read_metrics
from star.rundir import JobDir

EVERY = 10.0
"""Seconds between samples, as in MLflow's own system metrics. A job that ends before the first leaves none."""
MEGABYTE = 2**20
log = logging.getLogger(__name__)


class Usage:
    """Samples the worker's processes, and the GPUs that it may use, in a thread of its own until the worker ends.

    Args:
        whole: sample all processes of the worker's parent, torchrun, which starts one for each GPU.
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
        _processors(root)  # psutil's first answer covers no time
        with contextlib.suppress(OSError):  # a full disk is for the worker to report
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
"""Process id -> its psutil object: psutil measures CPU use from one call to the next on the same object."""


def _processors(root: object) -> float:
    """CPU use of a process and its children since the last call, in per cent of one core."""
    import psutil

    assert isinstance(root, psutil.Process)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            known = _seen.get(process.pid)
            if known != process:  # equal ones have the same time of birth: a number may be another process's by now
                _seen[process.pid] = known = process
            assert isinstance(known, psutil.Process)
            total += known.cpu_percent()
    return total

"""Estimate what a run costs: time and GPU-hours. Each stage declares its own operations and bytes.

A multiply-add counts as two operations; a backward pass as twice the forward one.
"""

from __future__ import annotations

import heapq
import math
import socket
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter

from star.ledger.states import Taken
from star.spec.run_base import Run

FLOPS_PER_SECOND = 6e10
"""Assumed FLOP/s of one CPU core, where neither the ledger nor `resources.gpu` gives a speed."""
STARTUP = 0.5
"""Seconds that a job takes beside its operations, where its speed is not that of measured jobs, which includes them."""
LIKE = 5
"""Number of measured jobs that an estimate rests on: those of the most similar size."""

FAR = 10
"""A job so many times larger than those that were measured is not estimated by their speed, which start-up may have set."""

_flops = attrgetter("flops")


class History:
    """What jobs of each stage took, as far as the ledger knows: those on this machine, else those anywhere.

    Args:
        taken: newest first: of jobs of one size, the newest count.
        host: this machine's name.
    """

    def __init__(self, taken: Iterable[Taken] = (), host: str | None = None) -> None:
        here = host or socket.gethostname()
        own: defaultdict[str, list[Taken]] = defaultdict(list)
        every: defaultdict[str, list[Taken]] = defaultdict(list)
        for one in taken:
            every[one.stage].append(one)
            if one.host == here:
                own[one.stage].append(one)
        self._taken = every | own
        self._sized = {
            stage: sorted((one for one in taken if one.flops > 0), key=_flops) for stage, taken in self._taken.items()
        }

    def seconds(self, stage: str, flops: float, assumed: float = FLOPS_PER_SECOND) -> float | None:
        """Expected seconds of a job of `flops` operations, from start to end; None if no such job was measured.

        The speed is that of the jobs of the most similar size: small products are slower than large ones. A job more than
        FAR times as large takes as long as they, and what it has beyond at the `assumed` FLOP/s, if that is faster.
        """
        taken = self._taken.get(stage)
        if not taken:
            return None
        if flops <= 0:
            return sum(one.seconds for one in taken) / len(taken)
        sized = self._sized[stage]
        place = bisect_left(sized, flops, key=_flops)
        near = sized[max(0, place - LIKE) : place + LIKE]
        near = sorted(near, key=lambda one: abs(math.log(one.flops / flops)))[:LIKE]
        if not near:
            return None
        size: float = sum(one.flops for one in near) / len(near)
        took: float = sum(one.seconds for one in near) / len(near)
        alike = flops * took / size
        return alike if flops <= FAR * size else min(alike, took + (flops - size) / assumed)


def gpu_hours(spec: Run, flops: float) -> float:
    """GPU-hours that `flops` operations take on `resources.gpu`, which must be set."""
    speed = spec.resources.flops_per_second
    assert speed is not None, "gpu_hours wants resources.gpu"
    return flops / speed / 3600


def stage_seconds(stage: str, spec: Run, history: History, flops: float) -> float:
    """Expected seconds of a job of `flops` operations, from start to end.

    By the speed of `resources.gpu` if it is set, else as jobs before it, else FLOPS_PER_SECOND for each thread.
    """
    resources = spec.resources
    workers = resources.processes_of(stage) * resources.nodes_of(stage)
    if resources.flops_per_second:
        return STARTUP + flops / (resources.flops_per_second * workers)
    assumed = FLOPS_PER_SECOND * resources.threads_of(stage) * workers
    known = history.seconds(stage, flops, assumed)
    return STARTUP + flops / assumed if known is None else known


def wall_time(seconds: Sequence[float], slots: Sequence[int], inputs: Sequence[Sequence[int]], available: int) -> float:
    """Seconds until all jobs are done. As the scheduler does, each starts once its inputs are done and its slots free.

    Args:
        seconds: what each job takes; where two may start, the first of this list does.
        slots: slots that each takes; one that wants more than `available` has all of them.
        inputs: the jobs, by their place in the list, that each needs; before itself in the list.
    """
    width = [min(wanted, available) for wanted in slots]
    missing = [len(before) for before in inputs]
    after: list[list[int]] = [[] for _ in seconds]
    for place, before in enumerate(inputs):
        for one in before:
            after[one].append(place)
    ready = [place for place, count in enumerate(missing) if not count]
    running: list[tuple[float, int]] = []
    now, free = 0.0, available
    while ready or running:
        too_wide = []
        while ready and free:
            place = heapq.heappop(ready)
            if width[place] > free:
                too_wide.append(place)
                continue
            free -= width[place]
            heapq.heappush(running, (now + seconds[place], place))
        for place in too_wide:
            heapq.heappush(ready, place)
        now, place = heapq.heappop(running)
        free += width[place]
        for one in after[place]:
            missing[one] -= 1
            if not missing[one]:
                heapq.heappush(ready, one)
    return now

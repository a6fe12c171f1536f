"""Leases: which schedulers are alive, and which running jobs a dead one has left.

A lease is a scheduler's row in the ledger, with a count of heartbeats that grows every BEAT seconds. Every running job
names the scheduler that owns it. Another one may take the job over (adopt it) when the owner's row is gone, when the
owner's process is gone (on this machine), or when its count has not grown for SILENCE seconds by the observer's own
clock (on another machine, or where its process cannot be seen). So no two clocks are compared.

A wrong verdict does no harm. Adoption changes the owner only, not the worker, and the ledger then refuses the former
owner's changes of state. If a silent worker is replaced, the new attempt has a higher number in job.json. An older
worker looks for one when it starts, with each heartbeat and before it writes its result, and exits without a result.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

from star.errors import LedgerError
from star.ledger.states import Job, SchedulerInfo
from star.ledger.store import Ledger

BEAT = 3.0
"""Seconds between heartbeats."""
SILENCE = 30.0
"""Seconds without a heartbeat after which a scheduler on another machine counts as dead."""
log = logging.getLogger(__name__)


class Lease:
    """This scheduler's lease. As a context manager it sends heartbeats from a thread, and ends the lease on exit."""

    def __init__(self, ledger: Ledger, executor: str) -> None:
        self.ledger = ledger
        self.me = ledger.schedulers.enter(executor)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._last_change: dict[str, tuple[int, float]] = {}

    def __enter__(self) -> Lease:
        for other in self.ledger.schedulers.all().values():  # remove dead ones; their jobs are adopted
            if other.alive() is False:
                self.ledger.schedulers.leave(other)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        try:
            self.ledger.schedulers.leave(self.me)
        except LedgerError as error_:
            log.warning("%s", error_)

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            try:
                self.ledger.schedulers.beat(self.me)
            except LedgerError as error:
                log.warning("%s", error)

    def abandoned(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, str]]:
        """Yield those of other schedulers' running `jobs` whose owner is dead, each with the reason."""
        jobs = list(jobs)
        if not jobs:
            return
        others = self.ledger.schedulers.all()
        dead = {job.owner: self._death(others.get(job.owner or "")) for job in jobs}
        for job in jobs:
            reason = dead[job.owner]
            if reason is not None:
                yield job, reason

    def _death(self, other: SchedulerInfo | None) -> str | None:
        if other is None:
            return "its scheduler has left"
        here = other.alive()
        if here is not None:
            return None if here else f"its scheduler, process {other.pid}, is gone"
        beats, since = self._last_change.get(other.id, (-1, 0.0))
        now = time.monotonic()
        if beats != other.beats:
            self._last_change[other.id] = (other.beats, now)
            return None
        return f"its scheduler on {other.host} is silent" if now - since > SILENCE else None

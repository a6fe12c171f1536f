"""Runs workers as processes of this machine, forked by `star.fork_server`. Each has its own session, so that Ctrl-C
reaches only the scheduler."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from star.devices import GIB, Gpu, ListGpus, choose, usable_cores, visible_gpus
from star.errors import ExecutorError
from star.ledger.states import Allocation
from star.process import is_alive, process_born
from star.rundir import JobDir, read_json, write_json
from star.scheduler.executor import SILENCE, WORKER, Exit, Handle, Limits, Start, Watched
from star.scheduler.forks import ForkServer
from star.scheduler.worker_process import worker_environment
from star.spec.resources import Resources
from star.words import counted

log = logging.getLogger(__name__)
FAREWELL = 15.0
"""Seconds without a heartbeat after which a worker of another machine that has told of its end is gone, with all its ranks."""


class LocalExecutor:
    """Starts workers on this machine; finds those of an earlier scheduler by process id and start time.

    Args:
        slots: CPU slots; a job takes one for each thread of each process. All cores that this process may use by default.
        gpus: lists the machine's GPUs.
        worker: the module that is run.
    """

    name = "local"
    queues = False
    chains = False

    def __init__(self, slots: int | None = None, gpus: ListGpus = visible_gpus, worker: str = WORKER) -> None:
        self.slots = slots or usable_cores()
        self.list_gpus, self.worker = gpus, worker
        self.host = socket.gethostname()
        self._servers: dict[tuple[Path, int], ForkServer] = {}
        """(code snapshot, threads) of the workers -> their fork server."""
        self._children: dict[int, ForkServer] = {}
        """Process id of a worker -> the server that forked it."""
        self._gates: dict[int, int] = {}
        """Process id -> a file descriptor that becomes readable when it ends."""
        self._gpus: list[Gpu] = []
        self._looked = 0.0

    def limits(self) -> Limits:
        """This machine's CPU slots, and its GPUs as UUID -> bytes."""
        return self.slots, {gpu.uuid: gpu.memory for gpu in self._current_gpus()}

    def place(self, stage: str, resources: Resources, held: Limits) -> Allocation | None:
        """Choose CPU slots and the fullest GPUs that still fit; None when there is no room now.

        A job with more threads than the machine has slots gets all slots, once they are free.
        """
        busy, memory = held
        gpus = self._current_gpus()
        slots = min(resources.slots_of(stage), self.slots)
        if resources.nodes_of(stage) > 1 or (busy and busy + slots > self.slots):
            return None
        if not gpus or not resources.uses_gpu(stage):
            return Allocation(self.host, slots, {} if gpus else None)
        wanted = resources.gpu_memory_gb_of(stage)
        chosen = choose(gpus, memory, resources.processes_of(stage), None if wanted is None else int(wanted * GIB))
        return None if chosen is None else Allocation(self.host, slots, chosen)

    def never(self, stage: str, resources: Resources) -> str | None:
        """Say why a job can never run here (several machines, more or larger GPUs than there are); None if it can."""
        gpus, count = self._current_gpus(), resources.processes_of(stage)
        if resources.nodes_of(stage) > 1:
            return f"resources.{stage}.nodes: a job of several machines runs on Slurm or Ray; give --executor, or 1."
        if not gpus or not resources.uses_gpu(stage):
            return None
        wanted = resources.gpu_memory_gb_of(stage) or 0.0
        large = sum(gpu.memory >= wanted * GIB for gpu in gpus)
        if large >= count:
            return None
        size = f" of {wanted:g} GiB" if wanted else ""
        return (
            f"resources.{stage}.processes: {counted(count, 'GPU')}{size} asked for, but this machine has {large}; "
            "give fewer, less gpu_memory_gb, or device: cpu."
        )

    def submit(self, starts: Sequence[Start]) -> list[Handle | ExecutorError]:
        """Fork the workers; returns a handle or an error for each. Their output is appended to their jobs' logs."""
        done: list[Handle | ExecutorError] = []
        for start in starts:
            try:
                done.append(self._submit(start))
            except OSError as error:
                done.append(ExecutorError(f"this machine could not start it: {error}"))
        return done

    def _submit(self, start: Start) -> Handle:
        environment = worker_environment(start.code, start.attempt)
        if start.claim.gpus is not None:  # the machine has GPUs; an empty value hides them all
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(start.claim.gpus)
        server = self._server(start, environment)
        pid = server.start(start.job.path, environment, start.code, start.job.log)
        self._children[pid] = server
        return {"pid": pid, "started": process_born(pid), "host": self.host}

    def _server(self, start: Start, environment: dict[str, str]) -> ForkServer:
        threads = int((read_json(start.job.job) or {}).get("threads", 1))
        server = self._servers.get((start.code, threads))
        if server is not None:
            server.collect()
        if server is None or server.is_gone:
            server = ForkServer(self.worker, start.code, threads, environment, start.job.log)
            self._servers[start.code, threads] = server
        return server

    def poll(self, watched: Sequence[Watched]) -> list[Exit | None]:
        """Return each worker's Exit, or None while it runs.

        A worker on another machine counts as running until its result is there, or until SILENCE seconds after its last beat;
        FAREWELL seconds if it has left word of a failure, or that it stopped.
        """
        return [self._poll(one) for one in watched]

    def _poll(self, watched: Watched) -> Exit | None:
        handle = watched.handle
        if (handle["host"] if handle else watched.host) not in (self.host, None):
            return _poll_far(watched.job)
        if handle is None:
            return None if self._find(watched) or watched.job.locked() else Exit(None)
        server = self._children.get(handle["pid"])
        if server is not None:
            code = server.code(handle["pid"])
            if code is not None:
                del self._children[handle["pid"]]
                return Exit(code)
            if not server.is_gone:
                return None
            del self._children[handle["pid"]]
        if _alive(handle):
            self._watch(handle["pid"])
            return None
        self._forget(handle["pid"])
        return None if watched.job.locked() else Exit(None)

    def wait(self, seconds: float) -> None:
        """Wait until one of the workers ends, or `seconds` have passed."""
        gates = select.poll()
        for gate in self._gates.values():
            gates.register(gate, select.POLLIN)
        servers = {server.fileno(): server for server in self._servers.values() if not server.is_gone}
        for channel in servers:
            gates.register(channel, select.POLLIN)
        ended = {gate for gate, _ in gates.poll(max(0.0, seconds) * 1000)}
        for pid, gate in list(self._gates.items()):
            if gate in ended:  # it stays readable: left open, it would end every wait at once
                os.close(self._gates.pop(pid))
        for channel in servers.keys() & ended:
            servers[channel].collect()

    def stop(self, watched: Watched, kill: bool = False) -> None:
        """Send SIGTERM, or SIGKILL with `kill`, to the worker's process group, if it is still the handle's process.

        One on another machine is asked by a file, which it reads at its next heartbeat.
        """
        if (watched.handle["host"] if watched.handle else watched.host) not in (self.host, None):
            asked = {"attempt": int(watched.name.rpartition("-")[2]), "kill": kill}
            try:
                if read_json(watched.job.stop) != asked:
                    write_json(watched.job.stop, asked)
            except OSError as error:
                log.warning("%s cannot be asked to stop: %s", watched.job.path, error)
            return
        handle = watched.handle or self._find(watched)
        if handle and _alive(handle):
            try:
                os.killpg(handle["pid"], signal.SIGKILL if kill else signal.SIGTERM)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        """End the fork servers and stop watching; workers that run go on."""
        for pid in list(self._gates):
            self._forget(pid)
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    def _find(self, watched: Watched) -> Handle | None:
        """Find, by its command line, a worker whose scheduler died before it could save the handle."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "create_time", "status"]):
            line = process.info["cmdline"] or []
            if (
                process.info["status"] != psutil.STATUS_ZOMBIE
                and " ".join(line).endswith(
                    f" -m {self.worker} {watched.job.path}"
                )  # a process title is one string, not separate arguments
            ):
                found.append((process.info["create_time"], process.pid))
        if not found:
            return None
        pid = min(found)[1]  # torchrun's children have the same last argument, and are younger
        return {"pid": pid, "started": process_born(pid), "host": self.host}

    def _current_gpus(self) -> list[Gpu]:
        if time.monotonic() - self._looked > 1.0:
            self._gpus, self._looked = self.list_gpus(), time.monotonic()
        return self._gpus

    def _watch(self, pid: int) -> None:
        if pid not in self._gates:
            try:
                self._gates[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                pass

    def _forget(self, pid: int) -> None:
        gate = self._gates.pop(pid, None)
        if gate is not None:
            os.close(gate)


def _poll_far(job: JobDir) -> Exit | None:
    """What a worker of another machine has left in its folder, and when it last beat."""
    if job.is_complete():
        return Exit(None)
    silent, has_told = job.seconds_since_beat(), job.failure.exists()
    if silent is None or silent > (FAREWELL if has_told else SILENCE):
        return Exit(None, None if has_told else "its machine is silent")
    return None


def _alive(handle: Handle) -> bool:
    """Whether the handle's process still runs: its pid may belong to another one by now.

    False if it is hidden from this user; the job's lock then shows whether the worker runs.
    """
    return is_alive(handle["pid"], str(handle["started"])) is True

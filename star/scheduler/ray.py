"""Runs workers on Ray: each attempt is a detached actor with a name, so a later scheduler finds it again.

Ray executes code by design, so it is used with a token only (`star.scheduler.ray_token`): a cluster that RAY_ADDRESS
names has to run with RAY_AUTH_MODE=token. Without RAY_ADDRESS, the scheduler starts a private Ray on 127.0.0.1, with a
token and without a dashboard; it ends with the scheduler.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from star.devices import GIB, usable_cores
from star.errors import ExecutorError
from star.ledger.states import Allocation
from star.rundir import Home, JobDir
from star.scheduler.executor import WORKER, Exit, Handle, Start, Watched
from star.spec.resources import Resources

NAMESPACE = "star"
OWN = "own "
OLDEST = (2, 52)
"""The first version of Ray with token authentication."""
log = logging.getLogger(__name__)


class RayExecutor:
    """Submits jobs to the cluster that RAY_ADDRESS names, or to a private Ray on this machine.

    Args:
        slots: CPU slots of a private Ray; all cores by default.

    Raises:
        ExecutorError: Ray is too old for tokens, or cannot be reached.
    """

    name = "ray"
    chains = False

    def __init__(self, home: Home, slots: int | None = None, worker: str = WORKER) -> None:
        self.worker = worker
        self.own = not os.environ.get("RAY_ADDRESS")
        self.cluster = os.environ.get("RAY_ADDRESS") or f"{OWN}{socket.gethostname()} {os.getpid()} {time.time_ns()}"
        self.queues = not self.own
        version = tuple(int(part) for part in ray.__version__.split(".")[:2])
        if version < OLDEST:
            raise ExecutorError(f"--executor ray: Ray {ray.__version__} knows no tokens; install at least 2.52.")
        self._connect(slots)
        self._ends: dict[str, Any] = {}
        """Name of an attempt -> the future of its exit code."""

    def _connect(self, slots: int | None) -> None:
        options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
        if self.own:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of this machine
            options |= {
                "address": "local",
                "_node_ip_address": "127.0.0.1",
                "include_dashboard": False,
                "num_cpus": slots or usable_cores(),
            }
        try:
            if not ray.is_initialized():
                ray.init(**options)
        except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = os.environ.get("RAY_ADDRESS", "127.0.0.1")
            said = str(error).strip().splitlines()
            raise ExecutorError(
                f"--executor ray: Ray at {where} cannot be reached: {said[0] if said else error}"
            ) from None

    def limits(self) -> None:
        """Return None: Ray decides what runs when."""

    def place(self, stage: str, resources: Resources, held: object) -> Allocation:
        """Accept every job, on no particular machine: it waits in Ray's queue until there is room."""
        return Allocation(None)

    def never(self, stage: str, resources: Resources) -> None:
        """Return None: a cluster may grow, so any job may fit later."""

    def submit(self, starts: Sequence[Start]) -> list[Handle | ExecutorError]:
        """Start one actor for each attempt, or one on each machine of a job that needs several."""
        done: list[Handle | ExecutorError] = []
        for start in starts:
            try:
                done.append(self._submit(start))
            except (RayError, ValueError) as error:
                done.append(ExecutorError(f"Ray refused it: {error}"))
        return done

    def _submit(self, start: Start) -> Handle:
        resources, stage = start.resources, start.stage
        nodes, gpus = resources.nodes_of(stage), resources.gpus_of(stage)
        memory = resources.memory_gb_of(stage)
        wants: dict[str, Any] = {"num_cpus": min(resources.slots_of(stage), self._widest()), "num_gpus": gpus}
        if memory is not None:
            wants["memory"] = max(1, int(memory * GIB))
        mine = _named(start.name, start.job)
        group = _group(mine, nodes, wants) if nodes > 1 else None
        for rank in range(nodes):
            where = {} if group is None else {"scheduling_strategy": _in_bundle(group, rank)}
            actor = _runner_class().options(
                name=_actor_name(mine, rank),
                namespace=NAMESPACE,
                lifetime="detached",
                max_concurrency=4,
                get_if_exists=True,
                **wants,
                **where,
            )
            made = actor.remote(str(start.job.path), str(start.code), self.worker, rank, start.attempt)
            if rank == 0:
                self._ends[mine] = made.wait.remote()
        return {"actor": mine, "nodes": nodes, "cluster": self.cluster}

    def _widest(self) -> int:
        """CPUs of the largest live machine: a job that asks for more would wait forever."""
        return int(max((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1))

    def poll(self, watched: Sequence[Watched]) -> list[Exit | None]:
        """Return each attempt's Exit, or None while its actor runs its worker or waits for room.

        Raises:
            ExecutorError: Ray does not answer.
        """
        try:
            return [self._poll(one) for one in watched]
        except RayError as error:
            raise ExecutorError(f"Ray does not answer: {error}") from None

    def _poll(self, watched: Watched) -> Exit | None:
        cluster = (watched.handle or {}).get("cluster", self.cluster)
        if (
            cluster != self.cluster
        ):  # a private Ray has ended with its scheduler; another cluster cannot be asked from here
            return Exit(None) if cluster.startswith(OWN) else None
        end = self._end_of(_name_of(watched))
        if end is None:
            return Exit(None)
        if not ray.wait([end], timeout=0)[0]:
            return None
        self._ends.pop(_name_of(watched))
        try:
            code: int | None = ray.get(end)
            state = None
        except RayActorError:
            code, state = None, "ACTOR_DIED"
        self._let_go(watched)
        return Exit(code, state)

    def _end_of(self, name: str) -> Any | None:
        if name not in self._ends:
            try:
                self._ends[name] = ray.get_actor(_actor_name(name, 0), NAMESPACE).wait.remote()
            except ValueError:
                return None
        return self._ends[name]

    def wait(self, seconds: float) -> None:
        """Wait until one of the workers ends, or `seconds` have passed."""
        if self._ends:
            try:
                ray.wait(list(self._ends.values()), timeout=max(0.001, seconds))
            except RayError:  # `poll` says it
                time.sleep(min(1.0, seconds))
        else:
            time.sleep(max(0.0, seconds))

    def stop(self, watched: Watched, kill: bool = False) -> None:
        """Ask the workers to stop; with `kill`, end them now."""
        begun = watched.job.locked()
        for actor in _actors(watched):
            if kill or not begun:  # one that waits for room cannot be asked
                ray.kill(actor)
            else:
                actor.stop.remote(kill)

    def _let_go(self, watched: Watched) -> None:
        for actor in _actors(watched):
            ray.kill(actor)
        group = (watched.handle or {}).get("nodes", 1) > 1
        if group:
            try:
                ray.util.remove_placement_group(ray.util.get_placement_group(_name_of(watched)))
            except ValueError:
                pass

    def close(self) -> None:
        """Disconnect from Ray; a private Ray ends."""
        ray.shutdown()


def _named(name: str, job: JobDir) -> str:
    """An attempt's name with its home's: on one cluster two homes may run the same."""
    return f"{name}-{Home(job.path.parent.parent).identity()[:12]}"


def _name_of(watched: Watched) -> str:
    return str((watched.handle or {}).get("actor") or _named(watched.name, watched.job))


def _actor_name(name: str, rank: int) -> str:
    return f"{name}-{rank}"


def _actors(watched: Watched) -> list[Any]:
    found = []
    for rank in range((watched.handle or {}).get("nodes", 1)):
        try:
            found.append(ray.get_actor(_actor_name(_name_of(watched), rank), NAMESPACE))
        except ValueError:
            pass
    return found


def _group(name: str, nodes: int, wants: dict[str, Any]) -> Any:
    """Reserve room for one actor on each of `nodes` machines (a placement group)."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    bundle = {names[key]: value for key, value in wants.items() if value}
    return ray.util.placement_group([bundle] * nodes, strategy="STRICT_SPREAD", name=name, lifetime="detached")


def _in_bundle(group: Any, rank: int) -> Any:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)


def _runner_class() -> Any:
    """Return the actor's class. Defined inside, so that Ray ships its code; it imports `star` from the job's snapshot alone."""

    class Runner:
        def __init__(self, job: str, code: str, worker: str, rank: int, attempt: int) -> None:
            import os
            import sys

            sys.path.insert(0, code)
            from star.scheduler.worker_process import start_worker, worker_environment

            more = {"STAR_NODE_RANK": str(rank), "STAR_PARENT": str(os.getpid())}
            self.process = start_worker(job, worker, code, worker_environment(code, attempt, **more))

        def wait(self) -> int:
            return self.process.wait()

        def stop(self, kill: bool) -> None:
            import os
            import signal

            try:
                os.killpg(self.process.pid, signal.SIGKILL if kill else signal.SIGTERM)
            except ProcessLookupError:
                pass

    return ray.remote(Runner)

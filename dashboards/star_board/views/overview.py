"""The first page, the queue, and the failures."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from star.devices import usable_cores
from star.errors import ExecutorError
from star.ledger.states import CANCELLED, DONE, FAILED, LOST, QUEUED, RUNNING, Job
from star.scheduler.declared import stage_of
from star.scheduler.explain import waiting_for
from star.scheduler.policies import advice
from star.spec.graph import Stage
from star_board.board import ROWS, Board
from star_board.model import Group, Model

T = TypeVar("T")
UNSEEN = {"name": "", "memory": None, "used": None, "use": None}
"""Placeholder values for another machine's GPU, which cannot be read from here."""
FAILURES_FIRST = 6
"""Most failures on the first page."""
RUNNING_FIRST = 12


def overview(board: Board, request: Request) -> Response:
    """The first page: failures, experiments with their progress, and running jobs."""
    wanted = request.query_params.get("q", "").strip()

    def make() -> dict[str, Any]:
        model = board.model
        with model.lock:
            groups = [group for group in model.groups.values() if wanted.lower() in " ".join(group.address).lower()]
            shown = [{"group": group, **model.summary(group)} for group in groups]
            shown.sort(key=lambda one: (not one["is_moving"], -one["changed"], one["group"].address))
            part, pages = paged(shown, request)
            failed = ended(model, FAILED)
            running = model.running()
            return {
                **pages,
                "q": wanted,
                "groups": part,
                "counts": Counter(job.state for job in model.jobs.values() if model.users(job.key)),
                "failed": [describe(model, job) for job in failed[:FAILURES_FIRST]],
                "failed_count": len(failed) + len(ended(model, LOST, CANCELLED)),
                "running": [describe(model, job) for job in running[:RUNNING_FIRST]],
                "running_count": len(running),
                "schedulers": model.at_work(),
                "empty": not model.groups,
                "forgotten": len(model.jobs),
            }

    return board.page(request, "overview.html", make)


def declared_of(board: Board, job: Job) -> Stage | None:
    """A job's stage, as the platform or the job itself declares it."""
    return stage_of(job.stage, board.home.job(job.stage, job.key))


def queue(board: Board, request: Request) -> Response:
    """Page of the queue: machines with their jobs, running jobs, and what each queued job waits for."""

    def make() -> dict[str, Any]:
        model = board.model
        with model.lock:
            running = [describe(model, job) for job in model.running()]
            waiting = [job for job in model.jobs.values() if job.state == QUEUED and model.users(job.key)]
            part, pages = paged(sorted(waiting, key=lambda job: job.created), request)
            alive = bool(model.at_work())

            def inputs(job: Job) -> list[Job | None]:
                keys = next((row.jobs for row in model.users(job.key)), {})
                stage = declared_of(board, job)
                return [model.jobs.get(keys.get(name, "")) for name in (stage.inputs if stage else ())]

            return {
                **pages,
                "machines": list(machines(model)),
                "schedulers": [{"one": one, "alive": one.may_be_alive()} for one in model.schedulers.values()],
                "running": running[:ROWS],
                "running_count": len(running),
                "waiting": [describe(model, job) | {"why": waiting_for(job, inputs(job), alive)} for job in part],
            }

    return board.page(request, "queue.html", make)


def failures(board: Board, request: Request) -> Response:
    """Page of the failed, cancelled and lost jobs, newest first, with the last lines of the error and advice."""
    kind = request.query_params.get("kind", "")

    def make() -> dict[str, Any]:
        model = board.model
        with model.lock:
            found = [job for job in ended(model, FAILED, LOST, CANCELLED)]
            kinds = Counter(job.error_class or job.state for job in found)
            part, pages = paged([job for job in found if kind in ("", job.error_class or job.state)], request)
            listed = [
                describe(model, job) | {"advice": advice(job.why, job.stage, job.key), "lines": last_lines(job)}
                for job in part
            ]
            return {**pages, "kinds": kinds, "kind": kind, "failed": listed}

    return board.page(request, "failures.html", make)


def describe(model: Model, job: Job) -> dict[str, Any]:
    """Template values of a job in a list: share done, seconds left, and the experiments that use it."""
    told = model.progress.get(job.key) or {}
    done, total, rate = told.get("done", 0), told.get("total") or 0, told.get("rate") or 0
    share = max(0.0, min(1.0, done / total)) if total > 0 else None  # a script may tell anything
    eta = (total - done) / rate if share is not None and rate > 0 and done < total else None
    used = list({row.group.address: row.group for row in model.users(job.key)}.values())
    return {"job": job, "told": told, "share": share, "eta": eta, "used": used}


def ended(model: Model, *states: str) -> list[Job]:
    """Jobs in these states that a listed experiment needs, the newest end first."""
    found = [job for job in model.jobs.values() if job.state in states and model.users(job.key)]
    return sorted(found, key=lambda job: -(job.finished or job.created))


def machines(model: Model) -> Iterator[dict[str, Any]]:
    """Each host with running jobs, and this one: number of jobs, CPU slots held, and GPUs with the bytes held."""
    here = socket.gethostname()
    hosts: dict[str, list[Job]] = {here: []}
    for job in model.running():
        hosts.setdefault(job.location or "unknown", []).append(job)
    for host, jobs in hosts.items():
        held: Counter[str] = Counter()
        for job in jobs:
            held.update(job.gpus or {})
        gpus = (
            list(_gpus(held))
            if host == here
            else [{**UNSEEN, "uuid": uuid, "held": size} for uuid, size in held.items()]
        )
        yield {
            "host": host,
            "slots": sum(job.slots for job in jobs),
            "of": usable_cores() if host == here else None,
            "jobs": len(jobs),
            "gpus": gpus,
        }


def _gpus(held: Counter[str]) -> Iterator[dict[str, Any]]:
    from star.devices import visible_gpus

    try:
        found = visible_gpus()
    except ExecutorError:
        return
    for gpu in found:
        yield {
            "uuid": gpu.uuid,
            "name": gpu.name,
            "memory": gpu.memory,
            "used": gpu.memory - gpu.free,
            "use": gpu.use,
            "held": held[gpu.uuid],
        }


def last_lines(job: Job, most: int = 12) -> str:
    """The last `most` lines of a job's error, without its first line."""
    return "\n".join((job.error or "").splitlines()[1:][-most:])


def paged(found: Sequence[T], request: Request) -> tuple[Sequence[T], dict[str, int]]:
    """The entries of the requested page, and for the line below them the number of all, the page and the last page.

    A page that is missing or no number is the first, and one past the end the last: a list may shrink while it is read.
    """
    given, last = request.query_params.get("page", "1"), max(1, -(-len(found) // ROWS))
    page = min(max(1, int(given)), last) if given.isdecimal() and len(given) < 7 else 1
    return found[(page - 1) * ROWS : page * ROWS], {"total": len(found), "page": page, "last_page": last}


def group_states(group: Group) -> list[tuple[str, int]]:
    """(state, number of rows) in the order of a progress bar, without states that have no rows."""
    order = (DONE, RUNNING, "waiting", FAILED, CANCELLED, LOST)
    return [(state, group.states[state]) for state in order if group.states[state]]

"""`star-exp status`, `watch`, `show`, `logs`: read the ledger and the jobs' folders."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from star.errors import NotFoundError
from star.ledger.database import URL_VARIABLE
from star.ledger.jobs import Place
from star.ledger.states import CANCELLED, DONE, FAILED, LOST, QUEUED, RUNNING, Job, row_state
from star.ledger.store import Ledger, read_ledger
from star.metric_log import last_loss
from star.rundir import Home
from star.scheduler.policies import advice
from star.spec.builtin import builtin_stages, needed
from star.words import duration

ROWS = 40
"""Most rows of an experiment, and most queued jobs, that are printed one by one; --json has them all."""
DETAILED = 200
"""Most rows whose times and results are looked up."""
CALM = ("done", "waiting")
SHOWN = 3
"""Number of results of a user's own stage that are printed beside a row."""


def look(path: Path) -> tuple[Home, Ledger]:
    """The home at `path` and its ledger, opened only for reading.

    Raises:
        NotFoundError: nothing ever ran there.
    """
    home = Home(path)
    ledger = read_ledger(home)
    if ledger is None:
        raise nothing_yet(home)
    return home, ledger


def nothing_yet(home: Home, file: str = "experiments/table4.yaml") -> NotFoundError:
    """The error for a home without a ledger, with what to do."""
    if os.environ.get(URL_VARIABLE):
        return NotFoundError(
            f"{URL_VARIABLE}: the database that it names holds no ledger yet; `star-exp run {file}` makes one."
        )
    count = len(home.job_folders())
    if count:
        return NotFoundError(
            f"{home.path}: has {count} jobs but no ledger; `star-exp reindex` rebuilds it from their folders."
        )
    return NotFoundError(
        f"{home.path}: holds no runs yet; `star-exp run {file}` makes some, or name another folder with --home."
    )


def show_status(path: Path, as_json: bool, experiment: str | None = None) -> None:
    """Print all experiments, or one, with the state of their runs, and every job that is not done."""
    home, ledger = look(path)
    found = overview(home, ledger, experiment, queued=as_json)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo("\n".join(fitted(_lines(found))))


def fitted(lines: Iterator[str]) -> Iterator[str]:
    """Wrap and indent lines that are wider than the terminal; without a terminal they stay as they are."""
    if not sys.stdout.isatty():
        yield from lines
        return
    width = max(20, shutil.get_terminal_size().columns)
    for line in lines:
        indent = len(line) - len(line.lstrip())
        after = " " * min(indent + 4, width // 2)
        yield from textwrap.wrap(line, width, subsequent_indent=after, drop_whitespace=True) or [""]


def watch_status(path: Path, experiment: str | None, every: float) -> None:
    """Show the status until nothing is left to do: in place on a terminal, elsewhere each time that it has changed."""
    home, ledger = look(path)
    terminal = sys.stdout.isatty()
    last = ""
    if terminal:
        from rich.live import Live
        from rich.text import Text

        live = Live(refresh_per_second=4)
        live.start()
    try:
        while True:
            found = overview(home, ledger, experiment, queued=False)
            text = "\n".join(fitted(_lines(found)))
            if terminal:
                live.update(Text(text))
            elif text != last:
                click.echo(f"{text}\n")
            last = text
            if not _goes_on(found):
                return
            time.sleep(every)
    except KeyboardInterrupt:
        return
    finally:
        if terminal:
            live.stop()


def _goes_on(found: dict[str, Any]) -> bool:
    """Whether anything may change: a job runs, or a scheduler is at work."""
    running = any(job["state"] == RUNNING for job in found["open_jobs"])
    return running or any(watcher["at_work"] for watcher in found["schedulers"])


def overview(home: Home, ledger: Ledger, experiment: str | None = None, queued: bool = True) -> dict[str, Any]:
    """What `status --json` prints: `rows`, `open_jobs`, `schedulers`, `counts`.

    Args:
        queued: list all queued jobs, and not only the first that `status` shows.
    """
    listed = ledger.runs.experiments() if experiment is None else ledger.runs.named(experiment)
    stages = ledger.runs.stages()
    places = ledger.jobs.places()
    unfinished = ledger.jobs.of_state(RUNNING, FAILED, CANCELLED, LOST)
    for job in unfinished:  # a job that has a result is done, though its scheduler is gone, or has not noticed yet
        if job.key in places and job.state == RUNNING and home.job(job.stage, job.key).read_result() is not None:
            places[job.key] = places[job.key]._replace(state=DONE)
    unfinished = [job for job in unfinished if job.key not in places or places[job.key].state != DONE]
    rows: list[dict[str, Any]] = []
    wanted: set[str] = set()
    for row in listed:
        keys = stages[row.run]
        wanted.update(keys[stage] for stage in needed(tuple(row.targets)) if stage in keys)
        states = Counter(places[keys[stage]].state for stage in needed(tuple(row.targets)) if keys.get(stage) in places)
        rows.append(
            {
                "experiment": row.name,
                "profile": row.profile,
                "row": row.row,
                "seed": row.seed,
                "run": row.run,
                "state": row_state([_state(places, keys.get(stage)) for stage in row.targets if stage in keys], states),
                "jobs": dict(states),
            }
        )
    # left out: jobs that no experiment needs any more and that do not run
    unfinished = [job for job in unfinished if job.state == RUNNING or job.key in wanted]
    _add_details(home, ledger, rows, stages)
    limited = not queued and experiment is None
    unfinished += ledger.jobs.of_state(QUEUED, limit=ROWS + 1 if limited else None)
    waits = _slurm_says() if any(job.executor == "slurm" for job in unfinished) else {}
    if experiment is not None:
        unfinished = [job for job in unfinished if job.key in wanted]
    return {
        "home": str(home.path),
        "rows": rows,
        "counts": dict(Counter(place.state for key, place in places.items() if experiment is None or key in wanted)),
        "open_jobs": [_open_job(home, job, waits) for job in unfinished],
        "schedulers": [
            {**asdict(one), "alive": one.alive(), "at_work": one.may_be_alive()}
            for one in ledger.schedulers.all().values()
        ],
    }


def _add_details(
    home: Home, ledger: Ledger, rows: list[dict[str, Any]], stages: Mapping[str, Mapping[str, str]]
) -> None:
    """Add the last change and the results to rows that are printed; for thousands of rows this would take seconds."""
    counted = Counter((row["experiment"], row["profile"]) for row in rows)
    shown = [row for row in rows if counted[row["experiment"], row["profile"]] <= ROWS or row["state"] not in CALM]
    jobs = ledger.jobs.of({key for row in shown[:DETAILED] for key in stages[row["run"]].values()})
    for row in shown[:DETAILED]:
        mine = [jobs[key] for key in stages[row["run"]].values() if key in jobs]
        row["changed"] = max((job.finished or job.started or job.created for job in mine), default=None)
        results: dict[str, float] = {}
        for job in (job for job in mine if job.state == DONE):
            known = builtin_stages().get(job.stage)
            if known is not None and not known.highlights:
                continue
            told = (home.job(job.stage, job.key).read_result() or {}).get("metrics", {})
            names = {name: name for name in list(told)[:SHOWN]} if known is None else known.highlights
            results |= {names[name]: value for name, value in _plain(told) if name in names}
        row["results"] = results


def _plain(metrics: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Yield (name, value) of each metric, the name without the part before its last `/`, such as a network's."""
    return ((name.rpartition("/")[2], value) for name, value in metrics.items())


def _state(places: Mapping[str, Place], key: str | None) -> str | None:
    place = places.get(key or "")
    return place.state if place else None


def _slurm_says() -> dict[str, str]:
    """Slurm's id of each job -> its state in Slurm's queue; one query for all jobs."""
    from star.scheduler.squeue import in_queue

    return in_queue()


def _open_job(home: Home, job: Job, waits: dict[str, str]) -> dict[str, Any]:
    shown: dict[str, Any] = dict(job.__dict__)
    shown["engine"] = waits.get(str((job.handle or {}).get("job"))) if job.executor == "slurm" else None
    if job.state == RUNNING:
        folder = home.job(job.stage, job.key)
        shown["progress"], shown["loss"] = folder.read_progress(), last_loss(folder)
    return shown


def _lines(found: dict[str, Any]) -> Iterator[str]:
    rows = found["rows"]
    for name, profile in dict.fromkeys((row["experiment"], row["profile"]) for row in rows):
        mine = [row for row in rows if (row["experiment"], row["profile"]) == (name, profile)]
        yield f"{name} · {profile}: {sum(row['state'] == 'done' for row in mine)} of {len(mine)} runs done"
        shown = mine if len(mine) <= ROWS else [row for row in mine if row["state"] not in CALM][:ROWS]
        for line in shown:
            detail = ", ".join(f"{count} {state}" for state, count in line["jobs"].items())
            when = f"  {duration(time.time() - line['changed'])} ago" if line.get("changed") else ""
            numbers = "".join(f"  {name} {value:.4g}" for name, value in line.get("results", {}).items())
            yield f"  {line['state']:<9} {line['run']}  {line['row']} · seed {line['seed']}  ({detail}){when}{numbers}"
        if len(shown) < len(mine):
            rest = Counter(row["state"] for row in mine)
            yield f"  {', '.join(f'{count} {state}' for state, count in rest.items())}"
    jobs = found["open_jobs"]
    many = sum(job["state"] == QUEUED for job in jobs) > ROWS
    for job in jobs:
        if job["state"] != QUEUED or not many:
            yield from _job_lines(job)
    if many:
        yield f"queued    {found['counts'][QUEUED]} jobs"
    if any(job["state"] == QUEUED for job in jobs) and not _goes_on(found):
        yield "no scheduler is at work; `star-exp run FILE`, or `search FILE`, goes on with what is queued"
    for watcher in found["schedulers"]:
        if watcher["at_work"]:
            yield f"scheduler {watcher['host']} process {watcher['pid']} on {watcher['executor']}: {watcher['command']}"


def _job_lines(job: dict[str, Any]) -> Iterator[str]:
    progress = job.get("progress")
    far = f"  {progress['done']}/{progress['total']}" if progress else ""
    if job.get("loss") is not None:
        far += f"  loss {job['loss']:.3f}"
    if job["state"] == RUNNING and job["started"]:
        far += f"  for {duration(time.time() - job['started'])}"
    if progress and progress.get("rate", 0) > 0 and progress["done"] < progress["total"]:
        far += f"  {duration((progress['total'] - progress['done']) / progress['rate'])} left"
    location = job["host"] or job["executor"]
    where = f"  on {location}" if location else ""
    wait = f"  again in {job['not_before'] - time.time():.0f} s" if (job["not_before"] or 0) > time.time() else ""
    where += f" {job['engine']}" if job.get("engine") else ""
    yield f"{job['state']:<9} {job['stage']} {job['key']}  attempt {job['attempt']}  {job['label']}{where}{far}{wait}"
    if job["error"]:
        first, *rest = job["error"].splitlines()
        yield f"          {job['error_class']}: {first.removeprefix(str(job['error_class']) + ': ')}"
        yield from (f"            {line}" for line in rest[-5:])
        yield f"          {advice(job['why'], job['stage'], job['key'])}"


def show_key(path: Path, prefix: str, as_json: bool) -> None:
    """Print one run with its jobs, or one job with its history, numbers and provenance."""
    home, ledger = look(path)
    kind, key = ledger.resolve(prefix)
    shown = _run(home, ledger, key) if kind == "run" else _job(home, ledger, key)
    if as_json:
        click.echo(json.dumps(shown, indent=1))
    else:
        import yaml

        click.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=160).rstrip())


def _run(home: Home, ledger: Ledger, key: str) -> dict[str, Any]:
    from star.scheduler import own

    run = ledger.runs.of([key])[key]
    jobs = ledger.jobs.of(run.stages.values())
    # by step, then time: of one name the last counts, as MLflow takes it
    entries = sorted(own.of_run(home, key, run.stages), key=lambda entry: (entry[1], entry[0]))
    mine = dict(sorted((name, value) for name, value in {entry[2]: entry[3] for entry in entries}.items()))
    return {
        "run": key,
        "label": run.label,
        "mlflow_run": run.tracking_id,
        "stages": {
            stage: {"key": job, "state": jobs[job].state if job in jobs else "never asked for"}
            for stage, job in run.stages.items()
        },
        **({"own": mine} if mine else {}),
        "spec": run.spec,
    }


def _job(home: Home, ledger: Ledger, key: str) -> dict[str, Any]:
    job = ledger.jobs.of([key])[key]
    folder = home.job(job.stage, key)
    return {
        "job": key,
        **{name: value for name, value in asdict(job).items() if name != "key"},
        "folder": str(folder.path),
        "result": folder.read_result(),
        "history": [
            {"time": _clock(row.time), "attempt": row.attempt, "state": row.after, "why": row.why, "reason": row.reason}
            for row in ledger.jobs.history(key)
        ],
        "used_by": [run.label for run in ledger.runs.of().values() if key in run.stages.values()],
    }


def show_logs(path: Path, prefix: str, follow: bool) -> None:
    """Print the log of a job, or of all jobs of a run; with `follow`, also what is added until the jobs are over."""
    home, ledger = look(path)
    kind, key = ledger.resolve(prefix)
    stages = ledger.runs.of([key])[key].stages if kind == "run" else {ledger.jobs.of([key])[key].stage: key}
    if follow:
        _follow(home, ledger, stages)
        return
    for stage, job in stages.items():
        log = home.job(stage, job).log
        if log.exists():
            click.echo(f"== {stage} {job}")
            click.echo(log.read_text(errors="replace").rstrip())
        elif kind == "job":
            state = ledger.jobs.of([job])[job].state
            why = (
                "no worker has started yet, so there is no log"
                if state == QUEUED
                else f"is {state}, and its log is gone"
            )
            raise NotFoundError(f"{stage} {job}: {why}.")


def _follow(home: Home, ledger: Ledger, stages: dict[str, str]) -> None:
    read: dict[str, int] = {}
    last = ""
    while True:
        places = ledger.jobs.places(stages.values())
        at_work = any(one.may_be_alive() for one in ledger.schedulers.all().values())
        over = all(place.state != RUNNING and (place.state != QUEUED or not at_work) for place in places.values())
        for stage, key in stages.items():
            log = home.job(stage, key).log
            if not log.exists():
                continue
            with log.open("rb") as file:
                file.seek(read.get(key, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            if whole:
                read[key] = read.get(key, 0) + len(whole)
                if last != key:
                    click.echo(f"== {stage} {key}")
                    last = key
                click.echo(whole.decode(errors="replace"), nl=False)
        if over:
            return
        time.sleep(0.5)


def _clock(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))

"""`star-exp status`, `show`, `logs`: read the ledger and the jobs' folders."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from star.errors import NotFoundError
from star.ledger.store import DONE, FAILED, Ledger
from star.rundir import Home, read_json
from star.spec.graph import needed


def open_ledger(path: Path) -> tuple[Home, Ledger]:
    """The home at `path` and its ledger.

    Raises:
        NotFoundError: nothing ever ran there.
    """
    home = Home(path)
    if not home.ledger.exists():
        raise NotFoundError(
            f"{home.path}: holds no runs yet; `star-exp run experiments/table4.yaml` makes some, or name another folder with --home."
        )
    return home, Ledger(home.ledger)


def show_status(path: Path, as_json: bool) -> None:
    """All experiments with the state of their runs, and every job that is not done."""
    home, ledger = open_ledger(path)
    jobs, runs = ledger.jobs(), ledger.runs()
    rows = []
    for row in ledger.experiments():
        keys = [runs[row.run].stages[stage] for stage in needed(tuple(row.targets))]
        targets = [runs[row.run].stages[stage] for stage in row.targets]
        states = Counter(jobs[key].state for key in keys if key in jobs)
        finished = all(key in jobs and jobs[key].state == DONE for key in targets)
        state = "done" if finished else "failed" if states[FAILED] else "running" if states["running"] else "waiting"
        rows.append(
            {
                "experiment": row.name,
                "profile": row.profile,
                "row": row.row,
                "seed": row.seed,
                "run": row.run,
                "state": state,
                "jobs": dict(states),
            }
        )
    open_jobs = [asdict(job) for job in jobs.values() if job.state != DONE]
    if as_json:
        click.echo(json.dumps({"home": str(home.path), "rows": rows, "open_jobs": open_jobs}, indent=1))
        return
    for name, profile in dict.fromkeys((row["experiment"], row["profile"]) for row in rows):
        mine = [row for row in rows if (row["experiment"], row["profile"]) == (name, profile)]
        click.echo(f"{name} · {profile}: {sum(row['state'] == 'done' for row in mine)} of {len(mine)} runs done")
        for line in mine:
            detail = ", ".join(f"{count} {state}" for state, count in line["jobs"].items())
            click.echo(f"  {line['state']:<8} {line['run']}  {line['row']} · seed {line['seed']}  ({detail})")
    for job in open_jobs:
        error = f"  {job['error_class']}: {job['error']}" if job["error"] else ""
        click.echo(
            f"{job['state']:<8} {job['stage']} {job['key']}  attempt {job['attempt']}  {job['label']}{_progress(home, job)}{error}"
        )


def _progress(home: Home, job: dict[str, Any]) -> str:
    progress = read_json(home.job(job["stage"], job["key"]).progress) if job["state"] == "running" else None
    return f"  {progress['done']}/{progress['total']}" if progress else ""


def show_key(path: Path, prefix: str, as_json: bool) -> None:
    """One run with its jobs, or one job with its history, numbers and provenance."""
    home, ledger = open_ledger(path)
    kind, key = ledger.resolve(prefix)
    if kind == "run":
        run = ledger.runs([key])[key]
        jobs = ledger.jobs(run.stages.values())
        shown: dict[str, Any] = {
            "run": key,
            "label": run.label,
            "mlflow_run": run.tracking_id,
            "stages": {
                stage: {"key": job, "state": jobs[job].state if job in jobs else "never asked for"}
                for stage, job in run.stages.items()
            },
            "spec": run.spec,
        }
    else:
        job = ledger.jobs([key])[key]
        folder = home.job(job.stage, key)
        shown = {
            "job": key,
            **{name: value for name, value in asdict(job).items() if name != "key"},
            "folder": str(folder.path),
            "result": read_json(folder.result),
            "history": [
                {"time": _clock(row.time), "attempt": row.attempt, "state": row.after, "reason": row.reason}
                for row in ledger.history(key)
            ],
            "used_by": [run.label for run in ledger.runs().values() if key in run.stages.values()],
        }
    if as_json:
        click.echo(json.dumps(shown, indent=1))
    else:
        import yaml

        click.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=160).rstrip())


def show_logs(path: Path, prefix: str) -> None:
    """The log of a job, or of all jobs of a run."""
    home, ledger = open_ledger(path)
    kind, key = ledger.resolve(prefix)
    run_stages = ledger.runs([key])[key].stages if kind == "run" else {ledger.jobs([key])[key].stage: key}
    for stage, job in run_stages.items():
        log = home.job(stage, job).log
        if log.exists():
            click.echo(f"== {stage} {job}")
            click.echo(log.read_text(errors="replace").rstrip())
        elif kind == "job":
            raise NotFoundError(f"{stage} {job}: no worker has started yet, so there is no log.")


def _clock(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))

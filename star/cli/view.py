"""Shows a run while it is computed: a live table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING

import click

from star.cli.failures import be_silent
from star.ledger.states import RUNNING, Job
from star.metric_log import last_loss
from star.rundir import Home, JobDir
from star.scheduler.plan import Plan

if TYPE_CHECKING:
    from rich.table import Table

LINE_EVERY = 30.0
"""Seconds between lines of progress without a live table."""


class View:
    """Shows the jobs of a plan while the scheduler ticks."""

    def __init__(self, plan: Plan, home: Home, plain: bool) -> None:
        self.plan, self.home, self.plain = plan, home, plain
        self.started = time.time()
        self._next_line = self.started + LINE_EVERY
        self._live = None
        if not plain:
            from rich.live import Live

            self._live = Live(refresh_per_second=4)

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Print one thing that happened.

        Raises:
            KeyboardInterrupt: the reader of the output has gone.
        """
        if self._live:
            self._live.console.print(line, highlight=False, markup=False)
        else:
            try:
                click.echo(f"[{time.time() - self.started:7.1f} s] {line}")
            except BrokenPipeError:  # `run | head`: the reader has gone, and the workers stop as after Ctrl-C
                be_silent()
                raise KeyboardInterrupt from None
            except OSError:  # the disk of its log is full: the jobs go on, and later lines may find room
                return

    def update(self, states: dict[str, Job]) -> None:
        """Show the jobs as they are now; without a live table, those that run, every `LINE_EVERY` seconds."""
        if self._live:
            self._live.update(self._table(states))
        elif time.time() >= self._next_line:
            self._next_line = time.time() + LINE_EVERY
            for job in states.values():
                if job.state == RUNNING:
                    self.say(
                        "         "
                        + "  ".join(
                            filter(None, (job.stage, job.key, *_progress(self.home.job(job.stage, job.key)), job.label))
                        )
                    )

    def _table(self, states: dict[str, Job]) -> Table:
        from rich.table import Table

        done = Counter(job.state for job in states.values())
        summary = ", ".join(f"{count} {state}" for state, count in done.items())
        table = Table(
            title=f"{self.plan.experiment.name} · {summary or 'nothing to do'} · {time.time() - self.started:.0f} s",
            title_justify="left",
        )
        stages = [
            stage for stage in self.plan.experiment.needed if any(job.stage == stage for job in self.plan.jobs.values())
        ]
        for column in ("run", *stages):
            table.add_column(column, no_wrap=True)
        for run in self.plan.runs:
            keys = [(stage, run.stages.get(stage)) for stage in stages]
            table.add_row(run.name, *(self._cell(stage, key, states.get(key)) if key else "" for stage, key in keys))
        return table

    def _cell(self, stage: str, key: str, job: Job | None) -> str:
        marks = {
            "done": "[green]done",
            "failed": "[red]failed",
            "queued": "[dim]·",
            "cancelled": "cancelled",
            "lost": "lost",
        }
        if job is None:
            return "[dim]reused" if self.plan.jobs[key].action == "reuse" else "[dim]-"
        return (
            "[yellow]" + (" ".join(_progress(self.home.job(stage, key))) or "starting")
            if job.state == RUNNING
            else marks[job.state]
        )


def _progress(folder: JobDir) -> list[str]:
    """Such as ["420/1000", "loss 3.21", "ETA 65 s"]; empty before the first report."""
    progress = folder.read_progress()
    if not progress:
        return []
    shown = [f"{progress['done']}/{progress['total']}"]
    loss = last_loss(folder)
    if loss is not None:
        shown.append(f"loss {loss:.3f}")
    if progress["rate"] > 0 and progress["done"] < progress["total"]:
        shown.append(f"ETA {(progress['total'] - progress['done']) / progress['rate']:.0f} s")
    return shown

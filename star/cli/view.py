"""Shows a run while it is computed: a live table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING

import click

from star.cli.failures import be_silent
from star.ledger.states import FAILED, QUEUED, RUNNING, Job
from star.metric_log import last_loss
from star.rundir import Home, JobDir
from star.scheduler.plan import Plan

if TYPE_CHECKING:
    from rich.table import Table

LINE_EVERY = 30.0
"""Seconds between lines of progress without a live table."""
LOOK_EVERY = 1.0
"""Seconds between changes of the live table: the jobs want the cores that it would take."""
AROUND = 6
"""Lines of a terminal that the live table does not fill with runs: its title, head and caption, and the newest message."""


class View:
    """Shows the jobs of a plan while the scheduler ticks."""

    def __init__(self, plan: Plan, home: Home, plain: bool) -> None:
        self.plan, self.home, self.plain = plan, home, plain
        self.started = time.time()
        self._next_line = self.started + LINE_EVERY
        self._states: dict[str, Job] = {}
        self._next_look = 0.0
        self._live = None
        if not plain:
            from rich.live import Live

            self._live = Live(auto_refresh=False)

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._draw()
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
        self._states = states
        if self._live:
            if time.time() >= self._next_look:
                self._next_look = time.time() + LOOK_EVERY
                self._draw()
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

    def _draw(self) -> None:
        if self._live and self._states:
            self._live.update(self._table(self._states, self._live.console.height - AROUND), refresh=True)

    def _table(self, states: dict[str, Job], room: int) -> Table:
        """The runs and their jobs; of more than `room` runs those that are at work, then those that failed or wait."""
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
        runs = self.plan.runs
        if len(runs) > room:
            order: dict[str, int] = {RUNNING: 0, FAILED: 1, QUEUED: 2}
            found = [{states[key].state for key in run.stages.values() if key in states} for run in runs]
            ranked = sorted(range(len(runs)), key=lambda i: min((order.get(one, 3) for one in found[i]), default=3))
            runs = [runs[i] for i in sorted(ranked[: max(1, room)])]
            table.caption = f"and {len(self.plan.runs) - len(runs)} more; `star-exp status` lists all"
        for run in runs:
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

"""`star-exp`: the commands. Hyper-parameters live in YAML alone. Each command imports what it needs when it runs.

Exit codes: 0 all done; 1 some job failed, or waits for one that did; 2 the user's mistake; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from star.cli import bundles, images, results
from star.cli.board import board
from star.cli.failures import be_silent, guarded
from star.cli.files import AUTO, read_experiment
from star.cli.groups import GROUPS
from star.cli.init import init
from star.cli.options import (
    BUDGET,
    EXECUTOR,
    EXPERIMENT,
    HOME,
    JSON,
    KEY,
    KEYS,
    OUT,
    PLAIN,
    ROWS,
    SLOTS,
    KeyType,
    Number,
    OnceGroup,
    PathType,
    Whole,
    experiment_options,
)
from star.errors import StarError


class _Group(OnceGroup):
    """A group whose commands end on Ctrl-C as docs/resume.md says; click would call it an abort and a failure."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by what they are for."""
        for title, lines in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(list(lines.items()), col_spacing=3)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; end with exit code 130 on Ctrl-C, and when the reader of the output has gone."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except BrokenPipeError:  # click would call it a failure
            be_silent()
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="star-exp")
def cli() -> None:
    """Run ablations of ST-AR, see how far they are, and write the tables, figures and claims."""


@cli.command()
@experiment_options
@ROWS
@OUT
@EXECUTOR
@SLOTS
@PLAIN
@click.option(
    "--detach",
    is_flag=True,
    help="Leave the terminal: go on in a background process; with Slurm, submit everything and end.",
)
@click.option("--fork", is_flag=True, help="Put runs with changed values in place of the experiment's former ones.")
@click.option("--dry-run", is_flag=True, help="Print the batch scripts that Slurm would get; submit nothing.")
@BUDGET
@click.option(
    "--budget-hours",
    "hours",
    type=Number(min=0),
    help="With --seeds auto: GPU-hours (CPU-slot hours where there is no GPU) that the experiment may cost in all.",
)
def run(
    file: Path,
    profile: str | None,
    sets: tuple[str, ...],
    seeds: str | None,
    name: str | None,
    home: Path,
    rows: tuple[str, ...],
    out: Path,
    executor: str,
    slots: int | None,
    plain: bool,
    detach: bool,
    fork: bool,
    dry_run: bool,
    budget: float | None,
    hours: float | None,
) -> None:
    """Compute what FILE asks for and is not there yet; then write its report."""
    if hours is not None and seeds != AUTO:
        raise StarError(f"--budget-hours {hours:g}: is for --seeds auto, which adds seeds until it is spent.")
    if rows and seeds == AUTO:
        raise StarError(
            f"--rows {rows[0]}: --seeds auto chooses the rows itself, those that open claims need; leave one of them out."
        )
    if executor != "local":
        from star.scheduler.executors import check_name

        check_name(executor)
    experiment = read_experiment(file, profile, sets, seeds, name, home)
    if dry_run:
        from star.cli.dry_run import show_scripts

        return show_scripts(experiment.only(rows), home, executor, budget)
    from star.cli.run import RunOptions, run_experiment

    plain = plain or not sys.stdout.isatty()
    options = RunOptions(home, out, executor, slots, plain, fork, detach, budget, rows)
    if seeds == AUTO:
        from star.cli.auto import run_auto

        sys.exit(run_auto(experiment, options, hours))
    sys.exit(run_experiment(experiment, options))


@cli.command()
@experiment_options
@ROWS
@BUDGET
@JSON
def plan(
    file: Path,
    profile: str | None,
    sets: tuple[str, ...],
    seeds: str | None,
    name: str | None,
    home: Path,
    rows: tuple[str, ...],
    budget: float | None,
    as_json: bool,
) -> None:
    """Show rows, runs and stages of FILE, what is done or shared, and what the rest will cost."""
    experiment = read_experiment(file, profile, sets, seeds, name, home)
    from star.cli.plan import show_plan

    show_plan(experiment.only(rows), home, budget, as_json)


@cli.command()
@click.argument("experiment", required=False)
@HOME
@JSON
def status(experiment: str | None, home: Path, as_json: bool) -> None:
    """Experiments, or one of them, with their runs, and the jobs that are not done."""
    from star.cli.status import show_status

    show_status(home, as_json, experiment)


@cli.command()
@KEY
@HOME
@JSON
def show(key: str, home: Path, as_json: bool) -> None:
    """Everything about a run or a job; the start of KEY is enough."""
    from star.cli.status import show_key

    show_key(home, key, as_json)


@cli.command()
@KEY
@click.option("--follow", "-f", is_flag=True, help="Go on until the job is over.")
@HOME
def logs(key: str, home: Path, follow: bool) -> None:
    """What the workers of a job printed; for a run, of all its jobs."""
    from star.cli.status import show_logs

    show_logs(home, key, follow)


@cli.command()
@click.argument("name", metavar="[EXPERIMENT]", required=False)
@HOME
@EXPERIMENT
@click.option("--every", type=Number(min=0.2), default=1.0, show_default=True, help="Seconds between looks.")
def watch(name: str | None, home: Path, experiment: str | None, every: float) -> None:
    """What `status` shows, live, until nothing is left to do. Starts and stops nothing."""
    from star.cli.status import watch_status

    if name and experiment:
        raise StarError(f"watch {name} --experiment {experiment}: both name what to watch; keep one.")
    watch_status(home, name or experiment, every)


@cli.command()
@click.argument("key", type=KeyType(), required=False)
@click.argument("pairs", nargs=-1, metavar="[NAME=VALUE]...")
@click.option(
    "--step",
    type=Whole(min=0, max=2**62),
    default=0,
    show_default=True,
    help="The value's step, if it is one of a curve.",
)
@click.option(
    "--from",
    "table",
    type=PathType(),
    help="CSV: columns key, one for each number, and step if wanted.",
)
@HOME
def log(key: str | None, pairs: tuple[str, ...], step: int, table: Path | None, home: Path) -> None:
    """Attach numbers of your own to a run, or to all runs of a job: in its folder, in MLflow, in bundles. Tables name them mlflow:NAME."""
    from star.cli.own import log_numbers

    log_numbers(home, key, pairs, step, table)


@cli.command()
@click.argument("names", nargs=-1, metavar="[EXPERIMENT]...")
@click.option("--over", is_flag=True, help="All experiments of which nothing is queued or runs.")
@HOME
def forget(names: tuple[str, ...], over: bool, home: Path) -> None:
    """Take experiments that are over out of `status` and the board; the same run lists them again.

    Their results stay until `gc --left-out --delete`.
    """
    from star.cli.job_actions import forget_experiments

    forget_experiments(home, names, over)


@cli.command()
def notify() -> None:
    """Send a test to whom STAR_NOTIFY names: an http(s) address, or a command. `run` and `search` tell it what happens."""
    from star.cli.notify import send_test

    click.echo(send_test())


@cli.command()
@click.argument("first", type=KeyType())
@click.argument("second", type=KeyType())
@HOME
@JSON
def diff(first: str, second: str, home: Path, as_json: bool) -> None:
    """What differs between two runs, or two jobs of one stage: spec, results, provenance."""
    from star.cli.job_actions import show_diff

    show_diff(home, first, second, as_json)


@cli.command()
@KEY
@HOME
@JSON
def why(key: str, home: Path, as_json: bool) -> None:
    """Why a job, or each job of a run, is what it is: its last event, and the first thing that differs from its nearest relative."""
    from star.cli.job_actions import show_why

    show_why(home, key, as_json)


@cli.command()
@KEYS
@EXPERIMENT
@click.option("--failed", is_flag=True, help="All jobs that have failed.")
@HOME
def retry(keys: tuple[str, ...], experiment: str | None, failed: bool, home: Path) -> None:
    """Queue jobs that failed, were cancelled or got lost. A scheduler that wants them goes on with them at once."""
    from star.cli.job_actions import retry_jobs

    retry_jobs(home, keys, experiment, failed)


@cli.command()
@KEYS
@EXPERIMENT
@HOME
def cancel(keys: tuple[str, ...], experiment: str | None, home: Path) -> None:
    """Take jobs out of the queue, and stop running ones: training saves its state first. What other runs need goes on."""
    from star.cli.job_actions import cancel_jobs

    cancel_jobs(home, keys, experiment)


@cli.command()
@KEYS
@EXPERIMENT
@HOME
def rerun(keys: tuple[str, ...], experiment: str | None, home: Path) -> None:
    """Queue jobs that are done, and all that was made from them. What they had made is put aside, not removed."""
    from star.cli.job_actions import rerun_jobs

    rerun_jobs(home, keys, experiment)


@cli.command()
@click.option("--delete", is_flag=True, help="Do it; without this it is only shown.")
@click.option(
    "--intermediates", is_flag=True, help="Also images and codes that were needed on the way; weights and numbers stay."
)
@click.option(
    "--left-out",
    is_flag=True,
    help="Also runs of no listed experiment: rows left out, replaced by --fork, or taken out by `forget`.",
)
@HOME
@JSON
def gc(delete: bool, intermediates: bool, left_out: bool, home: Path, as_json: bool) -> None:
    """Show, or remove, what no run needs. Whatever a table shows, and the last and best weights, stay."""
    from star.cli.home import collect_garbage

    collect_garbage(home, delete, intermediates, left_out, as_json)


@cli.command()
@click.option("--mlflow", is_flag=True, help="Carry everything to MLflow again, as when its database is new.")
@HOME
def reindex(mlflow: bool, home: Path) -> None:
    """Rebuild the ledger from the jobs' folders, and bring to MLflow what it lacks of them."""
    from star.cli.home import rebuild

    rebuild(home, mlflow)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the lines that teach SHELL to complete commands and keys: eval "$(star-exp completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "star-exp", "_STAR_EXP_COMPLETE").source())


for command in (
    *(bundles.export, bundles.import_, bundles.verify),
    *(results.search, results.report, results.claims),
    init,
    *(images.evaluate, images.reference, images.weights, images.data),
    board,
):
    cli.add_command(command)


def main() -> None:
    """Entry point. Mistakes, and failures outside of this program, become one sentence and exit code 2."""
    sys.exit(guarded(cli))

"""Options that several commands share, and keys that the shell completes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from star.words import shown


class Whole(click.IntRange):
    """A whole number in a range."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; fails if it is none, or out of range."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{shown(str(value))} is not a whole number {_bounds(self)}.", param, ctx)


class Number(click.FloatRange):
    """A number in a range, and no infinity."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; fails if it is none, out of range, or `nan` or `inf`, which click takes for numbers."""
        try:
            number = super().convert(value, param, ctx)
        except click.BadParameter:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{shown(str(value))} is not a number {_bounds(self)}.", param, ctx)
        return number


def _bounds(kind: Whole | Number) -> str:
    return f"from {kind.min:g} on" if kind.max is None else f"from {kind.min} to {kind.max}"


class PathType(click.Path):
    """A path, with `~` filled in: shells leave it as it is after `=`, and in files of variables."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; fails if there is no such user."""
        return super().convert(_at_home(self, value, param, ctx), param, ctx)


def _at_home(kind: click.ParamType, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # type: ignore[type-arg]
    try:
        return Path(value).expanduser() if str(value).startswith("~") else value
    except RuntimeError:
        kind.fail(f"{value}: there is no user of that name; a folder of your own begins with ~/.", param, ctx)


class FolderType(click.ParamType):  # type: ignore[type-arg]
    """A folder that need not exist yet. A file, or a name that the file system refuses, is an error."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The folder's path; fails if it is empty, a file, or refused by the file system."""
        path = Path(_at_home(self, value, param, ctx))
        try:
            there = path.exists()
        except OSError as error:
            self.fail(f"{str(value)[:60]}...: {error.strerror}; give a shorter one.", param, ctx)
        if not str(value):
            self.fail("it is empty; give a folder.", param, ctx)
        if there and not path.is_dir():
            self.fail(f"{value} is a file; give a folder.", param, ctx)
        return path


HOME = click.option(
    "--home",
    type=FolderType(),
    default=Path("runs"),
    envvar="STAR_HOME",
    show_default=True,
    show_envvar=True,
    is_eager=True,  # where reports go depends on it
    help="Folder of ledger, jobs, data, references and MLflow's database.",
)


def _in_home(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path:
    """The folder for reports: HOME/reports unless `--out` is given, so that a run changes no file of a checkout."""
    del param
    home: Path = ctx.params["home"]
    return value or home / "reports"


OUT = click.option(
    "--out",
    type=FolderType(),
    show_default="HOME/reports",
    callback=_in_home,
    help="Folder for reports.",
)
EXTRACTOR = [
    click.option(
        "--extractor",
        type=click.Choice(["inception", "efficientnet-lite0"]),
        default="inception",
        show_default=True,
        help="Network whose features are compared. Only Inception's give FID; the other, which comes with this package, FD.",
    ),
    click.option(
        "--weights",
        type=PathType(),
        help="Inception's file, when it is not where `weights fetch` keeps it.",
    ),
    click.option(
        "--input-size",
        type=Whole(32, 512),
        default=224,
        show_default=True,
        help="Side to which efficientnet-lite0 resizes its images.",
    ),
    click.option("--batch-size", type=Whole(1), default=50, show_default=True, help="Images of a pass."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    HOME,
]


class OnceGroup(click.Group):
    """A group whose commands take an option that holds one value only once: click would keep the last without a word."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; refuses options that are given twice."""
        name, command, rest = super().resolve_command(ctx, args)
        twice = None if command is None or ctx.resilient_parsing else _given_twice(command, ctx, rest)
        if twice is not None:
            ctx.fail(f"{twice} is given twice; keep one.")
        return name, command, rest


def _given_twice(command: click.Command, ctx: click.Context, args: list[str]) -> str | None:
    """The first option that is there twice and holds one value; None also where the command refuses the arguments itself."""
    try:
        *_, order = command.make_parser(click.Context(command, parent=ctx)).parse_args(list(args))
    except click.UsageError:
        return None
    single = [one for one in order if isinstance(one, click.Option) and not (one.multiple or one.is_flag)]
    return next((one.opts[0] for one in single if single.count(one) > 1), None)


BUDGET = click.option(
    "--budget-gpu-hours",
    "budget",
    type=Number(min=0),
    help="Stop before anything starts when what is left costs more.",
)
EXECUTOR = click.option(
    "--executor",
    metavar="NAME",
    default="local",
    envvar="STAR_EXECUTOR",
    show_default=True,
    show_envvar=True,
    help="Where jobs run: local (this machine), slurm, ray, an installed one's name, or FILE.py:CLASS.",
)
SLOTS = click.option("--slots", type=Whole(1), help="CPU slots of this machine to fill; its cores by default.")
PLAIN = click.option("--plain", is_flag=True, help="Lines instead of the live view, also on a terminal.")
ROWS = click.option(
    "--rows",
    multiple=True,
    metavar="PATTERN",
    help="Only rows whose whole label matches, such as 'LlamaGen-[BL]*'; may be given several times.",
)
FILE = click.argument("file", type=PathType())
REPLACE = click.option("--replace", is_flag=True, help="Overwrite a report that holds more numbers than this one.")
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


def experiment_options(command: click.decorators.FC) -> click.decorators.FC:
    """Decorator that adds the argument FILE and the options that change an experiment."""
    return FILE(experiment_changes(command))


def experiment_changes(command: click.decorators.FC) -> click.decorators.FC:
    """Decorator that adds the options that change an experiment."""
    options = [
        click.option(
            "--profile",
            help="Scale to run at: a name in profiles/ beside FILE or in experiments/profiles/, or a YAML file; by default that of "
            "FILE, or fashion.",
        ),
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="PATH=VALUE",
            help="Change the base of every row, such as optim.steps=200; may be given several times.",
        ),
        click.option(
            "--seeds",
            metavar="0,1,2",
            help="Seeds in place of the file's; or `auto`: as many as its open claims need, looked at as `looks` plans.",
        ),
        click.option("--name", help="Make it an experiment of its own, with this name."),
        HOME,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def extractor_options(command: click.decorators.FC) -> click.decorators.FC:
    """Decorator that adds the options that choose a network for features and how it runs."""
    for option in reversed(EXTRACTOR):
        command = option(command)
    return command


class KeyType(click.ParamType):  # type: ignore[type-arg]
    """A key of a run or a job, or the start of one; the shell completes it from the ledger."""

    name = "key"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Keys of runs and jobs that begin with `incomplete`, at most 50 of each."""
        from star.errors import StarError
        from star.ledger.store import read_ledger
        from star.rundir import Home

        try:
            ledger = read_ledger(Home(ctx.params.get("home") or Path("runs")))
        except StarError:
            return []
        if ledger is None:
            return []
        found = [*ledger.runs.that_start(incomplete, 50), *ledger.jobs.that_start(incomplete, 50)]
        return [CompletionItem(key) for key in found]


KEY = click.argument("key", type=KeyType())
KEYS = click.argument("keys", type=KeyType(), nargs=-1)
EXPERIMENT = click.option(
    "--experiment", metavar="NAME[@PROFILE]", help="All runs of this experiment, at one profile or all."
)

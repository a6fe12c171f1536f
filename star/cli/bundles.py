"""Commands about an experiment as one file: `export`, `import`, and `verify`, which computes it again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from star.cli.files import is_name, numbers, plans_of, read_experiment
from star.cli.options import HOME, JSON, OUT, PLAIN, ROWS, SLOTS, Number, PathType, experiment_changes
from star.errors import StarError


@click.command()
@click.argument("file", type=PathType(), metavar="FILE|NAME")
@experiment_changes
@OUT
@click.option(
    "--weights",
    type=click.Choice(["none", "student", "best", "all"]),
    default="none",
    show_default=True,
    help="Weights to take along; `all` takes every output.",
)
@click.option("--to", "target", type=PathType(), help="File to write; NAME-PROFILE.tar.gz by default.")
def export(
    file: Path,
    profile: str | None,
    sets: tuple[str, ...],
    seeds: str | None,
    name: str | None,
    home: Path,
    out: Path,
    weights: str,
    target: Path | None,
) -> None:
    """Write an experiment as one file: YAML, specs, code and its changes, environment, numbers, logs, tables, chosen weights.

    A NAME, of an experiment that ran, takes it as it was run.
    """
    from star.cli.home import export_bundle

    if is_name(file):
        asked = plans_of([file], home, profile, sets, seeds, name)
        if len(asked) > 1:
            raise StarError(
                f"{file}: was run at {', '.join(one.experiment.profile for one in asked)}; choose with --profile."
            )
        export_bundle(asked[0], home, out, weights, target)
    else:
        export_bundle(read_experiment(file, profile, sets, seeds, name, home), home, out, weights, target)


@click.command(name="import")
@click.argument("bundle", type=PathType())
@HOME
@OUT
def import_(bundle: Path, home: Path, out: Path) -> None:
    """Take in an experiment that `export` wrote; what is here already stays as it is."""
    from star.cli.home import import_bundle

    import_bundle(bundle, home, out)


@click.command()
@click.argument("bundle", type=PathType())
@ROWS
@click.option("--seeds", metavar="N,...", help="Of these rows; all by default.")
@click.option(
    "--tolerance",
    type=Number(min=0),
    help="Relative difference that agrees; by default three standard deviations of the row's other seeds.",
)
@HOME
@SLOTS
@PLAIN
@JSON
def verify(
    bundle: Path,
    rows: tuple[str, ...],
    seeds: str | None,
    tolerance: float | None,
    home: Path,
    slots: int | None,
    plain: bool,
    as_json: bool,
) -> None:
    """Make an exported table again from its numbers, or with --rows compute runs again, here; say which numbers agree."""
    from star.cli.verify import VerifyOptions
    from star.cli.verify import verify as verify_bundle

    plain = plain or not sys.stdout.isatty()
    chosen = tuple(numbers(seeds) or ())
    if seeds is not None and not rows:
        raise StarError(f"--seeds {seeds}: of which rows? Give --rows PATTERN too.")
    for option, value in (("--tolerance", tolerance), ("--slots", slots)):
        if value is not None and not rows:
            raise StarError(f"{option} {value:g}: is for runs that are computed again; give --rows PATTERN too.")
    sys.exit(verify_bundle(bundle, VerifyOptions(home, rows, chosen, tolerance, slots, plain, as_json)))

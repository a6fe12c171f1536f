"""`star-exp gc`, `reindex`, `export`, `import`: commands about a home as a whole."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import click

from star.cli.own import take_over
from star.cli.places import writable
from star.cli.plan import amount
from star.cli.status import look
from star.cli.store import URI_VARIABLE, check_tracking, connect
from star.errors import DamagedError, SpecError, StarError
from star.ledger.database import URL_VARIABLE
from star.ledger.store import open_ledger
from star.rundir import Home
from star.scheduler.bundle import OTHER_ARCHIVES, pack
from star.scheduler.gc import find, remove
from star.scheduler.plan import Plan, make_plan
from star.scheduler.recorded import recorded_plan
from star.scheduler.records import written_folder
from star.scheduler.reindex import deliver, reindex
from star.scheduler.unpack import is_bundle, unpack
from star.spec.experiment import Experiment
from star.sqlite_file import damage, put_aside
from star.words import counted, shown


def collect_garbage(path: Path, delete: bool, intermediates: bool, left_out: bool, as_json: bool) -> None:
    """Show what no run needs, or remove it with `delete`."""
    home, ledger = look(path)  # opened only for reading: on a full disk, this command is the remedy
    ledger.check_bound(home)
    found = find(home, ledger, intermediates, left_out)
    if as_json:
        listed = [{"kind": one.kind, "path": str(one.path), "bytes": one.size, "why": one.why} for one in found]
        click.echo(json.dumps({"deleted": delete, "found": listed}, indent=1))
    else:
        for one in found:
            click.echo(f"{amount(one.size, 'B'):>10}  {one.kind:<21}  {one.path.relative_to(home.path)}  ({one.why})")
    if delete:
        found = remove(found, ledger)
    if as_json:
        return
    sizes: Counter[str] = Counter()
    for one in found:
        sizes[one.kind] += one.size
    total = amount(sum(sizes.values()), "B")
    if not found:
        click.echo("nothing to remove: everything here is needed")
    elif delete:
        click.echo(f"removed {total}")
    else:
        click.echo(f"{total} may go; the same command with --delete removes it")


def rebuild(path: Path, mlflow: bool) -> None:
    """Rebuild the ledger from the jobs' folders, then bring MLflow up to date with it."""
    home = Home(path)
    if not home.path.is_dir():
        raise StarError(f"--home {shown(home.path)}: is not there; name the folder that holds jobs/.")
    home.begin()
    found_wrong = damage(home.ledger)
    _replace_damaged(home.ledger, home, found_wrong and f"the ledger {shown(home.ledger)} is damaged ({found_wrong})")
    try:
        ledger = open_ledger(home)
        found = reindex(home, ledger)
    except DamagedError as error:  # a sound SQLite file, but no ledger
        if os.environ.get(URL_VARIABLE):
            raise
        _replace_damaged(home.ledger, home, error.what)
        ledger = open_ledger(home)
        found = reindex(home, ledger)
    click.echo(
        f"ledger: {counted(found.jobs, 'job')} in the folders, {found.new_jobs} of them new to it, "
        f"{counted(found.corrected, 'state')} corrected, {counted(found.experiments, 'experiment')}"
    )
    for name in found.unreadable:
        click.echo(f"warning: {name}/job.json cannot be read; the folder was left out", err=True)
    if mlflow and not os.environ.get(URI_VARIABLE):
        try:
            check_tracking(home)
        except DamagedError as error:
            _replace_damaged(home.mlflow, home, error.what)
    check_tracking(home)
    take_over(home, ledger, ledger.runs.stages())
    count = deliver(home, ledger, lambda: connect(home), mlflow)
    click.echo(f"MLflow: carried over {counted(count, 'experiment')}")


def _replace_damaged(file: Path, home: Home, what: str | None) -> None:
    """Move a database that cannot be used aside, and say where it is; without `what`, do nothing."""
    if what is not None:
        click.echo(f"{what}: put aside as {shown(put_aside(file, home.aside))}", err=True)


def export_bundle(asked: Experiment | Plan, path: Path, reports: Path, weights: str, target: Path | None) -> None:
    """Write an experiment as one file; `asked` is the experiment itself, or a plan of it as it was run."""
    home, ledger = look(path)
    plan = asked if isinstance(asked, Plan) else make_plan(asked, home, ledger)
    target = writable(target or Path(f"{plan.experiment.name}-{plan.experiment.profile}.tar.gz"), "--to")
    if target.suffix in OTHER_ARCHIVES:
        raise StarError(f"--to {shown(target)}: a bundle is a tar file; give a name that ends in .tar.gz.")
    if target.exists() and target.stat().st_size and not is_bundle(target):
        raise StarError(
            f"--to {shown(target)}: is there already, and is no bundle; name another file, or take it away first."
        )
    take_over(home, ledger, {run.key: run.stages for run in plan.runs})
    count = pack(plan, home, reports, weights, target)
    click.echo(f"wrote {target}: {counted(count, 'file')}, {amount(target.stat().st_size, 'B')}")
    if plan.to_do:
        click.echo(f"warning: {len(plan.to_do)} of {len(plan.jobs)} jobs are not done, and not in it", err=True)


def import_bundle(bundle: Path, path: Path, reports: Path) -> None:
    """Take the experiment in a bundle into a home."""
    home = Home(path)
    ledger = open_ledger(home)
    taken = unpack(bundle, home, reports)
    reindex(home, ledger)
    deliver(home, ledger, lambda: connect(home))
    click.echo(
        f"{taken.experiment}: took in {taken.new} jobs; {taken.there} were here already. `star-exp status` shows them; "
        f"`star-exp report {taken.experiment}` writes its tables."
    )
    if taken.unfinished:
        click.echo(
            f"warning: {counted(taken.unfinished, 'job')} of it had begun here and is not done; what is here stays, and `star-exp run` "
            "goes on with it.",
            err=True,
        )
    if taken.kept:
        name = f"{taken.experiment}@{taken.profile}"
        click.echo(
            f"warning: {name} was run here with rows or runs that the bundle lacks: its record, file and reports stay, and "
            f"`star-exp report {taken.experiment}` is of those. For the bundle's, `star-exp forget {name}` and import it again.",
            err=True,
        )
    copy = written_folder(home, taken.experiment, taken.profile) / f"{taken.experiment}.yaml"
    if copy.is_file():
        click.echo(f"its file: {shown(copy)}")
    try:
        recorded_plan(home, taken.experiment, taken.profile)
    except SpecError as error:
        click.echo(f"warning: {error}", err=True)

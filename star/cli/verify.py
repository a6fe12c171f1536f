"""`star-exp verify`: recomputes a table's numbers, or chosen runs, of an exported bundle, and says which agree."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from star.cli.run import RunOptions, run_experiment
from star.cli.store import URI_VARIABLE, connect, reader_of
from star.errors import DataError, SpecError
from star.ledger.store import open_ledger, read_ledger
from star.report.agree import DIFFERS, MISSING, Number, compare
from star.report.evidence import Evidence
from star.report.write import build, provenance
from star.rundir import Home, read_json
from star.scheduler.plan import Plan, PlannedRun
from star.scheduler.recorded import recorded_plan
from star.scheduler.reindex import deliver, reindex
from star.scheduler.scripts import copy_of
from star.scheduler.unpack import check_file, unpack
from star.spec.experiment import Experiment
from star.spec.graph import needed_of
from star.spec.run_base import Run
from star.spec.scripts import scripts_of, source_of
from star.words import counted


@dataclass(frozen=True)
class VerifyOptions:
    """What to recompute, and how, as the command line says."""

    home: Path
    """The home whose data are used; the work is done in a folder of its own in it."""
    rows: tuple[str, ...]
    """Patterns of the rows to compute again; none: the table is made again from the bundle's numbers."""
    seeds: tuple[int, ...]
    """Seeds of these rows; all by default."""
    tolerance: float | None
    slots: int | None
    plain: bool
    as_json: bool


def verify(bundle: Path, options: VerifyOptions) -> int:
    """Verify a bundle; returns the exit code: 0 if all numbers agree, 1 if one does not, or could not be computed.

    The work is kept in HOME/verify: the same command goes on where it was stopped.

    Raises:
        DataError: the file is no bundle, or it holds no numbers of what is asked for.
        SpecError: no row or seed is as asked for.
    """
    check_file(bundle)
    # a bundle's numbers are read from it alone, and written to no store of the user's
    os.environ.pop(URI_VARIABLE, None)
    with bundle.open("rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder = Home(options.home).path / "verify" / name
    given = Home(folder / "given")
    plan = _taken(bundle, given)
    if options.rows:
        found, code = _runs(plan, given, Home(folder / "again"), options)
    else:
        found, code = list(_table(plan, given)), 0
    _tell(bundle, plan, given, found, options)
    return code or int(any(one.degree in (DIFFERS, MISSING) for one in found))


def _taken(bundle: Path, home: Home) -> Plan:
    """The bundle's experiment, in a home of its own."""
    home.begin()
    ledger = open_ledger(home)
    taken = unpack(bundle, home, home.path / "reports")
    reindex(home, ledger)
    deliver(home, ledger, lambda: connect(home))
    plan = recorded_plan(home, taken.experiment, taken.profile)
    if plan is None:
        raise DataError(
            f"{bundle}: was written by an older version, and does not say what its runs are; export it again."
        )
    return plan


def _table(plan: Plan, home: Home) -> Iterator[Number]:
    """The cells of the bundle's table against those of the table that its jobs' results give."""
    experiment = plan.experiment
    place = Path(experiment.name) / experiment.profile / "provenance.json"
    told = read_json(home.path / "reports" / place)
    if told is None or not told.get("cells"):
        raise DataError(
            f"{experiment.name}: the bundle holds no table to compare with; give --rows to compute runs again."
        )
    report = build(Evidence(plan, read_ledger(home), reader_of(home)))
    given, again = (_cells(found) for found in (told, json.loads(provenance(report, []))))
    yield from compare(given, again, {}, 0.0)


def _cells(provenance: Mapping[str, Any]) -> dict[str, float]:
    """`row | column | seed` -> value, of a report's provenance."""
    return {
        f"{cell['row']} | {cell['column']} | seed {source['seed']}": float(source["value"])
        for cell in provenance.get("cells", ())
        for source in cell["sources"]
    }


def _runs(plan: Plan, given: Home, again: Home, options: VerifyOptions) -> tuple[list[Number], int]:
    """Compute the chosen runs again in a home of their own; compare the results of all stages that lead to the targets."""
    chosen = _with_its_scripts(_chosen(plan.experiment, options), plan, given)
    again.path.mkdir(parents=True, exist_ok=True)
    if given.scripts.is_dir():  # of plugins
        shutil.copytree(given.scripts, again.scripts, dirs_exist_ok=True)
    data = again.path / "data"
    if not data.exists() and not data.is_symlink():
        os.symlink(Home(options.home).data.resolve(), data)
    run = RunOptions(again.path, again.path / "reports", "local", options.slots, options.plain or options.as_json)
    with redirect_stdout(sys.stderr if options.as_json else sys.stdout):
        code = run_experiment(chosen, run)
    redone = recorded_plan(again, chosen.name, chosen.profile)
    assert redone is not None
    keys = {(one.label, one.seed): one.stages for one in redone.runs}
    found: list[Number] = []
    for one in plan.runs:
        if (one.label, one.seed) in keys:
            stages = needed_of(chosen.targets, chosen.spec.pipeline, one.spec)
            values = _results(given, one.stages, stages)
            spread = _of_other_seeds(plan, given, one, stages)
            new = _results(again, keys[one.label, one.seed], stages)
            found += [
                replace(number, name=f"{one.name}: {number.name}")
                for number in compare(values, new, spread, options.tolerance)
            ]
    now = {(one.label, one.seed, stage): key for one in redone.runs for stage, key in one.stages.items()}
    others = {s for one in plan.runs for s, key in one.stages.items() if now.get((one.label, one.seed, s), key) != key}
    for stage in sorted(others):
        said = "other data, other code of yours, or a version of it that gives other results"
        click.echo(f"note: {stage} has another key here than in the bundle: {said}", err=True)
    if not found:
        raise DataError(f"{plan.experiment.name}: the bundle holds no results of these runs.")
    return found, code


def _chosen(experiment: Experiment, options: VerifyOptions) -> Experiment:
    chosen = experiment.only(options.rows)
    variants = []
    for variant in chosen.variants:
        runs = [run for run in variant.runs if not options.seeds or not run.has_seed or run.seed in options.seeds]
        if variant.runs and not runs:
            there = ", ".join(str(run.seed) for run in variant.runs)
            raise SpecError(
                f"--seeds {','.join(map(str, options.seeds))}: {variant.label} has no such seed; it has {there}."
            )
        variants.append(replace(variant, runs=tuple(runs)))
    return replace(chosen, variants=tuple(variants), seeding="given", written={})


def _with_its_scripts(experiment: Experiment, plan: Plan, given: Home) -> Experiment:
    """The experiment with its commands' files taken from the bundle: the author's folder is not here, or was changed since."""
    sources = {(one.label, one.seed): one.sources for one in plan.runs}

    def moved(run: Run, label: str) -> Run:
        known = sources.get((label, run.seed), {})
        scripts = {
            name: script.model_copy(update={"folder": str(copy_of(given, known[source_of(name)]))})
            for name, script in scripts_of(run).items()
            if source_of(name) in known
        }
        return run.model_copy(update={"stages": {**scripts_of(run), **scripts}}) if scripts else run

    variants = (replace(one, runs=tuple(moved(run, one.label) for run in one.runs)) for one in experiment.variants)
    return replace(experiment, variants=tuple(variants))


def _results(home: Home, keys: Mapping[str, str], stages: Sequence[str]) -> dict[str, float]:
    """`stage/result` -> value, of the jobs that are done."""
    found = {}
    for stage in stages:
        result = home.job(stage, keys[stage]).read_result() if stage in keys else None
        for name, value in ((result or {}).get("metrics") or {}).items():
            found[f"{stage}/{name}"] = float(value)
    return found


def _of_other_seeds(plan: Plan, home: Home, one: PlannedRun, stages: Sequence[str]) -> dict[str, list[float]]:
    """The numbers of the row's other seeds: a wrong one must not widen the spread that it is judged by."""
    found: dict[str, list[float]] = {}
    for run in plan.runs:
        if run.label == one.label and run.seed != one.seed:
            for name, value in _results(home, run.stages, stages).items():
                found.setdefault(name, []).append(value)
    return found


def _tell(bundle: Path, plan: Plan, home: Home, found: Sequence[Number], options: VerifyOptions) -> None:
    counts = Counter(one.degree for one in found)
    codes = sorted({path.name for path in home.code.iterdir()}) if home.code.is_dir() else []
    if options.as_json:
        numbers = [vars(one) for one in found]
        click.echo(json.dumps({"bundle": str(bundle), "code": codes, "counts": counts, "numbers": numbers}, indent=1))
        return
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        again = "-" if one.again is None else f"{one.again:.6g}"
        spread = "" if one.spread is None else f"  (± {one.spread:.3g} over other seeds)"
        if one.degree != "identical" or options.rows:
            click.echo(f"{one.name:<{width}}  {one.given:>12.6g}  {again:>12}  {one.degree}{spread}")
    told = ", ".join(f"{count} {degree}" for degree, count in counts.most_common())
    click.echo(f"{plan.experiment.name} ({plan.experiment.profile}): {counted(len(found), 'number')}: {told}")

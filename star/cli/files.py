"""Reads the file that a command names. The code that reads it is imported on demand: most commands read none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from star.errors import SpecError, StarError

if TYPE_CHECKING:
    from star.scheduler.plan import Plan
    from star.spec.experiment import Experiment
    from star.spec.points import Search


AUTO = "auto"
"""`--seeds auto`: seeds are added while claims are open."""


def read_experiment(
    file: Path, profile: str | None, sets: tuple[str, ...], seeds: str | None, name: str | None, home: Path
) -> Experiment:
    """Read the experiment in `file`, changed as the command line says, with the seeds that `--seeds auto` has added in `home`.

    Raises:
        SpecError: with file, line and dotted path.
    """
    import gc

    from star.report.published import check
    from star.rundir import Home
    from star.scheduler.grown import grown
    from star.spec.load import load
    from star.spec.seeds import with_seeds

    gc.disable()  # a large plan makes millions of objects, and none of them is garbage
    experiment = load(file, profile, sets, None if seeds == AUTO else numbers(seeds), name)
    if seeds == AUTO and not experiment.spec.claims:
        raise SpecError(f"{file}: declares no claims, so nothing says when seeds are enough; give --seeds 0,1,2.")
    experiment = grown(with_seeds(experiment, {}) if seeds == AUTO else experiment, Home(home))
    check(experiment)
    for note in experiment.notes:
        print(f"{file}: {note}", file=sys.stderr)
    return experiment


def is_name(given: Path) -> bool:
    """Whether an argument names an experiment that ran, and not a file: no folder, no YAML ending, and no such file."""
    return len(given.parts) == 1 and given.suffix not in (".yaml", ".yml") and not given.is_file()


def plans_of(
    names: Sequence[Path], home: Path, profile: str | None, sets: tuple[str, ...], seeds: str | None, name: str | None
) -> list[Plan]:
    """Plans of the named experiments as they were last run.

    Raises:
        StarError: no experiment of a name was run, or an option would change what was run.
    """
    if not names:
        return []
    refuse_changes(names, sets, seeds, name)
    from star.rundir import Home
    from star.scheduler.recorded import as_run

    return [plan for one in names for plan in as_run(Home(home), str(one), profile)]


def refuse_changes(names: Sequence[Path], sets: tuple[str, ...], seeds: str | None, name: str | None) -> None:
    """Check that no option would change experiments that are named as they were run.

    Raises:
        StarError: an option would.
    """
    changes = {"--set": sets, "--seeds": seeds, "--name": name}
    for option in (option for option, value in changes.items() if value and names):
        raise StarError(
            f"{option}: {names[0]} is taken as it was run, which nothing changes; give its file, such as experiments/{names[0]}.yaml."
        )


def searches_of(names: Sequence[Path], home: Path, profile: str | None) -> dict[Path, list[Path]]:
    """Name -> files of the search as it was last run, for each of these names that is a search's."""
    from star.rundir import Home
    from star.scheduler.recorded import searches_as_run

    found = {one: searches_as_run(Home(home), str(one), profile) for one in names}
    return {one: files for one, files in found.items() if files}


def describes_search(file: Path) -> bool:
    """Whether `file` describes a search and not an experiment."""
    from star.spec.extends import read_extended
    from star.spec.file_kind import is_search

    return is_search(read_extended(file).doc)


def read_search(
    file: Path, profile: str | None, sets: tuple[str, ...], name: str | None, recorded: bool = False
) -> Search:
    """Read the search in `file`, changed as the command line says.

    Raises:
        SpecError: with file, line and dotted path.
    """
    from star.spec.load_search import load_search

    return load_search(file, profile, sets, name, recorded)


def numbers(text: str | None) -> list[int] | None:
    """The seeds that `--seeds` lists; None without it.

    Raises:
        StarError: they are no different whole numbers in range.
    """
    if text is None:
        return None
    parts = text.split(",")
    digits = [part.strip() for part in parts]
    whole = all(part.isascii() and part.isdecimal() and len(part) < 12 and int(part) < 2**31 for part in digits)
    if not whole or len({int(part) for part in digits}) != len(parts):
        raise StarError(
            f"--seeds {text}: give different whole numbers from 0 to below {2**31}, separated by commas, such as 0,1,2, or auto."
        )
    return [int(part) for part in digits]

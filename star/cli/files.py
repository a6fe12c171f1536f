"""The file that a command names, read. What reads it is imported when it is wanted: most commands read none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from star.errors import StarError

if TYPE_CHECKING:
    from star.spec.experiment import Experiment
    from star.spec.points import Search


def read_experiment(
    file: Path, profile: str | None, sets: tuple[str, ...], seeds: str | None, name: str | None
) -> Experiment:
    """The experiment in `file`, changed as the command line says.

    Raises:
        SpecError: with file, line and dotted path.
    """
    import gc

    from star.report.published import check
    from star.spec.load import load

    gc.disable()  # a large plan makes millions of objects, and none of them is garbage
    experiment = load(file, profile, sets, _numbers(seeds), name)
    check(experiment)
    return experiment


def describes_search(file: Path) -> bool:
    """Whether `file` is a search's, and no experiment's."""
    from star.spec.load import is_search
    from star.spec.yamldoc import read

    return is_search(read(file))


def read_search(file: Path, profile: str | None, sets: tuple[str, ...], name: str | None) -> Search:
    """The search in `file`, changed as the command line says.

    Raises:
        SpecError: with file, line and dotted path.
    """
    from star.spec.load_search import load_search

    return load_search(file, profile, sets, name)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    digits = [part.strip() for part in parts]
    whole = all(part.isascii() and part.isdecimal() and len(part) < 12 and int(part) < 2**31 for part in digits)
    if not whole or len({int(part) for part in digits}) != len(parts):
        raise StarError(
            f"--seeds {text}: give different whole numbers from 0 and below {2**31}, separated by commas, such as 0,1,2."
        )
    return [int(part) for part in digits]

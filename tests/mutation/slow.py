"""Survivors of what only several processes, a compiler or a lack of memory reach: tried again, each with the tests that are too slow to
run for every mutant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from itertools import count
from pathlib import Path

SURVIVED, NOTICED = 0, 1
REACHED = ("star.train.*", "star.objectives.teacher.*", "star.objectives.objective.*")
"""Where those tests tell something that the fast ones do not."""


def try_again(mutants: Path, survivors: list[str], tests: list[str], names: str, at_a_time: int) -> None:
    """Run the tests called `names` (an expression of pytest's `-k`) on survivors, and note in mutmut's files what they notice.

    Args:
        mutants: mutmut's folder, in which MUTANT_UNDER_TEST chooses the program, in child processes too.

    Raises:
        AssertionError: the tests fail on the program as it is.
    """
    numbers = count()

    def notices(name: str) -> bool:
        command = [
            sys.executable,
            "-m",
            "pytest",
            *tests,
            "-x",
            "-k",
            names,
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
        ]
        command.append(f"--basetemp={mutants.parent / f'tmp-{next(numbers)}'}")
        environment = os.environ | {"MUTANT_UNDER_TEST": name, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(mutants)}
        try:
            done = subprocess.run(command, cwd=mutants, env=environment, capture_output=True, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            return True
        assert done.returncode in (0, 1, 2), done.stdout.decode()
        return done.returncode != 0

    assert not notices(""), "the slow tests fail on the program as it is"
    for meta in sorted(mutants.glob("star/**/*.py.meta")):
        found = json.loads(meta.read_text())
        codes = found["exit_code_by_key"]
        tried = [name for name in survivors if codes.get(name) == SURVIVED and _reached(name)]
        with ThreadPoolExecutor(at_a_time) as pool:
            for name, noticed in zip(tried, pool.map(notices, tried), strict=True):
                codes[name] = NOTICED if noticed else SURVIVED
                print(f"{'noticed ' if noticed else 'SURVIVED'} {name}", flush=True)
        if tried:
            meta.write_text(json.dumps(found, indent=4))


def _reached(name: str) -> bool:
    return any(fnmatch(name.replace("x_", "").replace("xǁ", ""), pattern) for pattern in REACHED)

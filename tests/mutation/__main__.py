"""`python -m tests.mutation [PATTERN...]`: mutate the numerics with mutmut, run the tests on each mutant, write docs/mutants.md.

Patterns are names of functions or mutants, such as `star.objectives.mim*`; those are tried again, what is known of the
others stays; `--open` stands for all that are not tried, or neither noticed nor judged. Survivors of training are tried again
with the slow tests, of several processes and of a lack of memory. With `--by-hand` the programs of broken.yaml are tried in
place of all this. All work is done in copies of the checkout, in runs/mutation.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "runs" / "data"
COPY = ROOT / "runs" / "mutation" / "mutmut"
BY_HAND = ROOT / "runs" / "mutation" / "by_hand"
AT_A_TIME = int(os.environ.get("STAR_MUTANTS_AT_A_TIME", os.cpu_count() or 1))
KNOWN = ROOT / "runs" / "mutation" / "by_hand.json"
MUTATED = ["objectives/*", "train/*", "model/*", "evaluate/*", "tokenizer/*", "data/views.py", "checkpoint.py"]
TESTS = ["tests/numerics", "tests/data/test_image_sets.py", "tests/data/test_sources.py", "tests/test_weights.py"]
TOO_SLOW = [
    *("test_a_compiled_model", "test_memory_that_runs_out_halves", "test_every_layout", "test_collapsed_generator"),
    "test_exports_load",
]
"""They start processes of their own, or take seconds for what a faster one notices too."""
SLOW = ["test_every_layout", "test_memory_that_runs_out_halves"]
"""Of those, the ones that the survivors of training are tried with."""


def copied(copy: Path, change: Callable[[str], str] = lambda source: source) -> None:
    """A copy of the checkout as it is now, committed or not, with `change` made to every file of `star`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, copy / name
        if not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        if name.startswith("star/") and name.endswith(".py"):
            content = change(content.decode()).encode()
        if not target.exists() or target.read_bytes() != content:  # mutmut looks at times
            target.write_bytes(content)


def with_data(folder: Path) -> None:
    """Let the tests in a copy find the images."""
    folder.joinpath("runs").mkdir(parents=True, exist_ok=True)
    place = folder / "runs" / "data"
    if not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
        place.symlink_to(DATA)


def prepare() -> None:
    """Make the copy that mutmut works on."""
    from tests.mutation.plain import without_decorators

    copied(COPY, without_decorators)
    options = ["tests.mutation.plugin", "no:xdist", "no:cacheprovider", "no:unraisableexception"]
    settings = {
        "source_paths": ["star"],
        "only_mutate": [f"star/{name}" for name in MUTATED],
        "also_copy": ["dashboards", "experiments", "docs", "README.md", "Makefile", "docker-compose.yml"],
        "pytest_add_cli_args_test_selection": TESTS,
        "pytest_add_cli_args": [
            *(argument for option in options for argument in ("-p", option)),
            f"--basetemp={COPY / 'tmp'}",
            f"-k=not ({' or '.join(TOO_SLOW)})",
        ],
        "process_isolation": "forkserver",
        "timeout_multiplier": 4.0,
        "timeout_constant": 4.0,
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {_toml(value)}" for key, value in settings.items()]
    (COPY / "pyproject.toml").write_text(
        (ROOT / "pyproject.toml").read_text() + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"
    )
    with_data(COPY / "mutants")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if not isinstance(value, str) else f'"{value}"'


def run(patterns: list[str]) -> int:
    """Let mutmut try all mutants, or those of the patterns, in a process that has imported neither `star` nor `tests`."""
    script = COPY / "tests" / "mutation" / "plain.py"
    command = [sys.executable, str(script), "run", "--max-children", str(AT_A_TIME), *patterns]
    return subprocess.run(command, cwd=COPY, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode


def report() -> list[str]:
    """Write docs/mutants.md; returns what is left: not tried, or not noticed and not judged."""
    from tests.mutation.report import write

    return write(COPY / "mutants", ROOT / "docs" / "mutants.md", Path(__file__).with_name("judged.yaml"), KNOWN)


def by_hand() -> int:
    """Try the programs of broken.yaml; returns how many survived."""
    from tests.mutation.by_hand import programs, survivors

    copied(BY_HAND)
    with_data(BY_HAND)
    listed = programs(Path(__file__).with_name("broken.yaml"))
    found = survivors(BY_HAND, listed, ["tests/numerics", "tests/data/test_pixels.py", "tests/data/test_sources.py"])
    KNOWN.write_text(json.dumps({"tried": len(listed), "survived": found}))
    return len(found)


def main(arguments: list[str]) -> int:
    """As this module says; returns the exit code."""
    from tests.mutation.slow import try_again

    if arguments == ["--by-hand"]:
        code = by_hand()
    else:
        prepare()
        code = run(report() if arguments == ["--open"] else arguments)
        try_again(COPY / "mutants", report(), TESTS, " or ".join(SLOW), AT_A_TIME)
    report()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

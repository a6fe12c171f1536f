"""Two hundred typing errors: each file either still resolves, or is refused in one clear line; never a traceback."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from star.cli.main import cli
from star.errors import StarError
from tests.helpers import TINY

CHARACTERS = "abcxyzAB019.:-_[]{},'\"#&*!|>%@`~?=/\\ \t\né\x00"


def typo(text: str, rng: random.Random) -> str:
    """One slip of a finger: a character lost, doubled, swapped, replaced or added; a line lost, doubled or indented."""
    place = rng.randrange(len(text))
    slips = [
        lambda: text[:place] + text[place + 1 :],
        lambda: text[:place] + text[place] + text[place:],
        lambda: text[:place] + text[place + 1 : place + 2] + text[place : place + 1] + text[place + 2 :],
        lambda: text[:place] + rng.choice(CHARACTERS) + text[place + 1 :],
        lambda: text[:place] + rng.choice(CHARACTERS) + text[place:],
    ]
    lines = text.splitlines()
    line = rng.randrange(len(lines))
    line_slips = [
        lambda: lines[:line] + lines[line + 1 :],
        lambda: lines[:line] + [lines[line]] + lines[line:],
        lambda: lines[:line] + ["  " + lines[line]] + lines[line + 1 :],
        lambda: lines[:line] + [lines[line].replace(": ", ":")] + lines[line + 1 :],
    ]
    return "\n".join(rng.choice(line_slips)()) + "\n" if rng.random() < 0.3 else rng.choice(slips)()


@pytest.mark.parametrize("seed", range(8))
def test_random_typos_give_no_traceback(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    profile = TINY.parent / "profiles" / "tiny.yaml"
    (tmp_path / "profiles").mkdir()
    refused = 0
    for _ in range(25):
        in_profile = rng.random() < 0.4
        (tmp_path / "mine.yaml").write_text(TINY.read_text() if in_profile else typo(TINY.read_text(), rng))
        (tmp_path / "profiles" / "tiny.yaml").write_text(
            typo(profile.read_text(), rng) if in_profile else profile.read_text()
        )
        result = CliRunner().invoke(cli, ["plan", str(tmp_path / "mine.yaml"), "--home", str(tmp_path / "home")])
        if isinstance(result.exception, StarError):
            refused += 1
            assert ".yaml" in str(result.exception)
        else:
            assert result.exit_code == 0, (result.exception, (tmp_path / "mine.yaml").read_text())
    assert refused >= 10

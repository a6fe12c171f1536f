"""YAML that tries a reader: bombs of aliases, letters that are none, merge keys, and shared values where they belong."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from star.errors import SpecError, StarError
from star.spec.load import load
from star.spec.yamldoc import parse, read
from tests.helpers import TINY, star_exp

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize("under", ["", "anchors:\n  "])
def test_an_alias_bomb_ends_soon(under: str) -> None:
    started = time.monotonic()
    with pytest.raises(SpecError, match=r"x.yaml:\d+: holds more than 200,000 values, aliases counted"):
        parse(under + BOMB.replace("\n", "\n  ") if under else BOMB, "x.yaml")
    assert time.monotonic() - started < 20  # a second here; hours without the limit


@pytest.mark.parametrize(
    "text, told",
    [
        ("a: 1\nb: {c: [1, 2}\n", "x.yaml:2: not valid YAML: expected ',' or ']', but got '}'."),
        (
            "a: {b: 1\nc: 2\n",
            "x.yaml:2: not valid YAML: expected ',' or '}', but got ':'; the bracket of line 1, column 4, is open there.",
        ),
        ('a:\n  - "b\nc: d\n', "stream; the quotation mark of line 2, column 5, is open there."),
    ],
)
def test_what_is_still_open_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text, "x.yaml")
    assert str(caught.value).endswith(told)


@pytest.mark.parametrize("letter", ["\0", "\x07", "\x1b", "\ufffe", "\x7f"])
def test_a_letter_that_may_not_stand_there_is_told_with_its_line(letter: str) -> None:
    with pytest.raises(SpecError, match=rf"x.yaml:3: not valid YAML: the character U\+{ord(letter):04X} may not stand"):
        parse(f"a: 1\nb: 2\nc: x{letter}y\n", "x.yaml")


@pytest.mark.parametrize(
    "content, message",
    [
        ("a: 1\nb: caf\u00e9\n".encode("latin-1"), "x.yaml:2: cannot be read: it is not UTF-8 text"),
        ("a: 1\n".encode("utf-16"), "x.yaml:1: cannot be read: it is not UTF-8 text"),
        (b'a: 1\nb: "\\ud800"\n', "x.yaml:2: b: "),
        (b"a: 1\nb:\n  <<: 1\n", "x.yaml:3: b.<<: merge keys are no part of YAML 1.2 .* top-level `anchors:`"),
    ],
)
def test_what_is_no_text_or_no_yaml_of_ours(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=message):
        read(tmp_path / "x.yaml")


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "fifo.yaml", "is no regular file")):
        with pytest.raises(SpecError, match=message):
            read(path)
    with pytest.raises(SpecError, match="cannot be read: File name too long"):
        read(tmp_path / ("x" * 300))


def test_a_byte_order_mark_is_no_letter(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(tmp_path / "x.yaml").value == {"a": 1}


def test_shared_values_have_a_place(tmp_path: Path) -> None:
    """Under `anchors:` they are read where they are used, and nowhere else."""
    (tmp_path / "profiles").symlink_to(TINY.parent / "profiles")
    text = TINY.read_text()
    assert "seeds" not in text
    (tmp_path / "a.yaml").write_text(f"anchors:\n  both: &both [3, 5]\n{text}\nseeds: *both\n")
    assert [run.seed for run in load(tmp_path / "a.yaml").variants[0].runs] == [3, 5]
    (tmp_path / "b.yaml").write_text(f"{text}\nseeds: [3, x]\nanchors: {{a: 1}}\n")
    with pytest.raises(SpecError, match=r"b.yaml:\d+: seeds.1: 'x'"):
        load(tmp_path / "b.yaml")


@pytest.mark.parametrize("seeds", ["-1", "2147483648", "99999999999", "", "0,0", "\u0967", "1,x", "1.5"])
def test_seeds_on_the_command_line_have_the_files_bounds(seeds: str) -> None:
    from star.cli.files import read_experiment

    with pytest.raises(StarError, match="--seeds .*: give different whole numbers from 0 to below 2147483648"):
        read_experiment(TINY, None, (), seeds, None, Path("runs"))


def test_one_broken_file_takes_nothing_from_the_others(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "profiles").symlink_to(TINY.parent / "profiles")
    (tmp_path / "experiments" / "good.yaml").write_text(TINY.read_text())
    (tmp_path / "experiments" / "broken.yaml").write_text("a: [\n")
    (tmp_path / "home" / "jobs").mkdir(parents=True)
    assert star_exp("reindex", home=tmp_path / "home", cwd=tmp_path).returncode == 0
    done = star_exp("report", "--all", home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 2 and "experiments/broken.yaml:2: not valid YAML" in done.stderr
    assert (tmp_path / "home" / "reports" / "index.md").exists() and "left out" in done.stdout

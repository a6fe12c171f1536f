"""What a plugin declares that no run could use, or that would be lost in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from star.errors import SpecError
from star.spec.load import load
from tests.spec.test_plugins import PLUGIN, written


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("    images: int", "    neutral = None\n    images: int", ["Loudness: config: neutral: give a mapping"]),
        ("changes = frozenset()", "changes = None", ["Hum: changes: None is no tuple of names"]),
        ("    teacher = None", "    teacher = True", ["Hum: teacher: True; give a TeacherReads"]),
        ('("mean",)', '("a/../b",)', ["Loudness: 'a/../b' is no name that MLflow takes"]),
        ('("mean",)', '("mean",)\n    attach = ("../job.json",)', ["Loudness: attach: '../job.json': give the path of one file"]),
        ("size: int = Field(8, ge=2)", "size: float = float('inf')", ["config: its defaults are not legal, or no plain JSON"]),
    ],
)  # fmt: skip
def test_a_declaration_of_nothing_usable(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert old in PLUGIN
    path = written(tmp_path, PLUGIN.replace(old, new))
    with pytest.raises(SpecError) as caught:
        load(path)
    assert all(part in str(caught.value) for part in expected), caught.value


def test_what_a_plugin_prints_is_no_output_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(written(tmp_path, "print('hello')\n" + PLUGIN))
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "hello\n")


def test_seeds_that_no_stage_reads_are_refused(tmp_path: Path) -> None:
    alone = (
        "experiment: alone\ntitle: Alone\nplugins: [lab.py]\ntargets: [loudness]\nrows: [{label: a}]\nseeds: [0, 1]\n"
        "table: {caption: A, columns: [{title: L, metric: loudness/mean}]}\n"
    )
    path = written(tmp_path, PLUGIN.replace('("generate",)', "()"), alone)
    with pytest.raises(
        SpecError, match="own.yaml:6: seeds: no stage uses its seed, so all these runs are one; say uses_seed"
    ):
        load(path)

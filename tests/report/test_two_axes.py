"""Rows that differ in two fields: a line for each value of the other one, a table as a grid of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from star.errors import SpecError
from star.report import figures
from star.report.figures.style import close
from star.report.grid import main_grid
from star.report.latex import latex
from star.report.markup import markdown
from star.report.table import build_table
from tests.report.stored import FD, Study

HEAD = """
experiment: study
title: A study
profile: tiny
seeds: [0, 1]
"""
AXES = """
axes:
  selfguided.mask_ratio: [0.5, 0.1, 0.25]
  selfguided.num_positions: [2, 4]
"""
TABLE = """
table:
  caption: Two axes
  grid: [selfguided.mask_ratio, selfguided.num_positions]
  published: table4
  match: {mask_ratio: selfguided.mask_ratio}
  columns:
    - {title: Mask ratio, spec: selfguided.mask_ratio}
    - {title: FD, metric: "score/{extractor}/frechet_distance", better: lower, published: fid}
    - {title: Probe %, metric: probe/accuracy, better: higher, scale: 100}
figures:
  - {name: ablation, kind: ablation, title: By ratio, x: selfguided.mask_ratio}
"""


def label(ratio: float, positions: int) -> str:
    return f"mask_ratio={ratio}, num_positions={positions}"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(tmp_path, HEAD + AXES + TABLE)
    for ratio in (0.5, 0.1, 0.25):
        for positions in (2, 4):
            if (ratio, positions) != (0.1, 4):
                made.put(label(ratio, positions), FD, 10 * ratio + positions, 10 * ratio + positions + 1)
                made.put(label(ratio, positions), "probe/accuracy", ratio, ratio)
    return made


def draw(study: Study) -> Any:
    return figures.draw(study.experiment.spec.figures[0], study.evidence, build_table(study.evidence))


def curves(axis: Any) -> dict[str, list[list[float]]]:
    """Name of each line in the legend -> its places and means."""
    handles, labels = axis.get_legend_handles_labels()
    return {
        name: np.round(np.transpose(np.array(bar.lines[0].get_data(), dtype=float)), 6).tolist()
        for bar, name in zip(handles, labels, strict=True)
    }


def test_an_ablation_draws_a_line_for_each_other_value(study: Study) -> None:
    drawn = draw(study)
    measured = drawn.axes[0]
    assert [tick.get_text() for tick in drawn.axes[2].get_xticklabels()] == ["0.5", "0.1", "0.25"]
    assert curves(measured) == {
        "num positions 2": [[0, 7.5], [1, 3.5], [2, 5.0]],
        "num positions 4": [[0, 9.5], [2, 7.0]],
    }
    colours = {bar.lines[0].get_color() for bar in measured.get_legend_handles_labels()[0]}
    assert len(colours) == 2
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["num positions 2", "num positions 4"]
    close(drawn)


def test_rows_that_are_written_out_are_told_apart_by_what_they_differ_in(tmp_path: Path) -> None:
    rows = "rows:\n" + "".join(
        f"  - {{label: {name} {ratio}, spec: {{selfguided: {{mask_ratio: {ratio}{weight}}}}}}}\n"
        for name, weight in (("with", ""), ("without", ", contrastive_weight: 0.0"))
        for ratio in (0.1, 0.25)
    )
    made = Study(
        tmp_path, HEAD + rows + TABLE.replace("  grid: [selfguided.mask_ratio, selfguided.num_positions]\n", "")
    )
    for i, name in enumerate(("with 0.1", "with 0.25", "without 0.1", "without 0.25")):
        made.put(name, FD, i, i)
    drawn = draw(made)
    assert curves(drawn.axes[0]) == {
        "contrastive weight 0.5": [[0, 0], [1, 1]],
        "contrastive weight 0.0": [[0, 2], [1, 3]],
    }
    close(drawn)


def test_rows_of_one_field_stay_one_line(tmp_path: Path) -> None:
    one = AXES.replace("  selfguided.num_positions: [2, 4]\n", "")
    made = Study(
        tmp_path, HEAD + one + TABLE.replace("  grid: [selfguided.mask_ratio, selfguided.num_positions]\n", "")
    )
    for i, ratio in enumerate((0.5, 0.1, 0.25)):
        made.put(f"mask_ratio={ratio}", FD, i, i)
    drawn = draw(made)
    means = [line for line in drawn.axes[0].get_lines() if line.get_marker() == "o"]
    assert [np.array(line.get_data(), dtype=float).tolist() for line in means] == [[[0, 1, 2], [0, 1, 2]]]
    assert not drawn.legends
    close(drawn)


def test_a_table_of_two_axes_as_a_grid(study: Study) -> None:
    table = build_table(study.evidence)
    lines = markdown(main_grid(table))
    assert lines == [
        "| Mask ratio | num positions 2 | num positions 4 |",
        "|---|---:|---:|",
        "| *FD, lower is better* |  |  |",
        "| 0.5 | 7.50 ± 0.71 | 9.50 ± 0.71 |",
        "| 0.1 | **3.50** ± 0.71 | (not run) |",
        "| 0.25 | <ins>5.00</ins> ± 0.71 | 7.00 ± 0.71 |",
        "| *paper* | *26.58* | *26.58* |",
        "| *Probe %, higher is better* |  |  |",
        "| 0.5 | **50.00** ± 0.00 | **50.00** ± 0.00 |",
        "| 0.1 | 10.00 ± 0.00 | (not run) |",
        "| 0.25 | <ins>25.00</ins> ± 0.00 | <ins>25.00</ins> ± 0.00 |",
    ]
    text = latex(table)
    assert r"\multicolumn{3}{@{}l}{\textit{FD, lower is better}}" in text and r"\textbf{3.50} $\pm$ 0.71" in text


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ("num_positions]", "num_position]", "table.grid.1"),
        ("grid: [selfguided.mask_ratio, selfguided.num_positions]", "grid: [selfguided.mask_ratio]", "table.grid"),
        ("selfguided.num_positions]", "selfguided.mask_ratio]", "'selfguided.mask_ratio' stands twice"),
        (
            "selfguided.num_positions]",
            "selfguided.temperature]",
            "both have selfguided.mask_ratio 0.5 and selfguided.temperature",
        ),
    ],
)
def test_a_grid_that_cannot_be_is_refused(tmp_path: Path, was: str, now: str, says: str) -> None:
    text = HEAD + AXES + TABLE
    assert was in text
    with pytest.raises(SpecError) as error:
        Study(tmp_path, text.replace(was, now))
    assert says in str(error.value) and "study.yaml:" in str(error.value)

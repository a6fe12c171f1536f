"""Rankings: the order, the ranks that are left open, what would decide, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from star.errors import SpecError
from star.report.figures.ranking import draw_ranking
from star.report.figures.style import close
from star.report.ranking import ranking
from star.report.ranking_markup import ranking_grids, ranking_notes
from star.spec.load import load
from star.spec.reporting import RankingFigure
from tests.report.stored import FD, STUDY, TABLE, Study

FIGURES = """figures:
  - {name: ranking, kind: ranking, title: Leaderboard, column: Probe %}
  - {name: distances, kind: ranking, title: Leaderboard, column: FD}
"""
VALUES = {"plain": (0.50, 0.52, 0.51), "a & b_1": (0.70, 0.71, 0.72), "c|d": (0.505, 0.54, 0.51)}


def study(folder: Path, interval: str = "welch") -> Study:
    found = Study(folder, STUDY + TABLE + FIGURES + f"interval: {interval}\n")
    for label, values in VALUES.items():
        found.put(label, "probe/accuracy", *values)
        found.put(label, FD, *(100 * value for value in values))
    return found


def figures(found: Study) -> list[RankingFigure]:
    return [one for one in found.experiment.spec.figures if isinstance(one, RankingFigure)]


@pytest.mark.parametrize("interval", ["welch", "paired", "block"])
def test_rows_that_differ_beyond_doubt_have_a_rank_and_others_share_ranks(tmp_path: Path, interval: str) -> None:
    found = study(tmp_path, interval)
    probe = ranking(figures(found)[0], found.evidence)
    assert probe is not None and (probe.pairs, probe.decided) == (3, 2)
    assert [(place.row, place.first, place.last) for place in probe.places] == [
        ("a & b_1", 1, 1),
        ("c|d", 2, 3),
        ("plain", 2, 3),
    ]
    first, second, last = probe.places
    assert first.ahead is not None and first.ahead.estimate == pytest.approx(100 * (0.71 - np.mean(VALUES["c|d"])))
    assert first.p is not None and first.p < 0.05 < (second.p or 0)
    assert second.seeds is not None and second.seeds > 3 and last.ahead is None
    assert [place.row for place in probe.is_open] == ["c|d"]
    lower = ranking(figures(found)[1], found.evidence)
    assert lower is not None
    assert [place.row for place in lower.places] == ["plain", "c|d", "a & b_1"], (
        "a distance is better where it is lower"
    )
    assert [(place.first, place.last) for place in lower.places] == [(1, 2), (1, 2), (3, 3)]
    assert lower.places[1].ahead is not None and lower.places[1].ahead.estimate > 0


SIX = (STUDY + TABLE + FIGURES).replace("seeds: [0, 1, 2]", "seeds: [0, 1, 2, 3, 4, 5]")


def test_a_row_that_is_behind_on_common_seeds_is_not_called_better(tmp_path: Path) -> None:
    """Its mean is higher by seeds that the other row lacks."""
    found = Study(tmp_path, SIX + "interval: paired\n")
    found.put("plain", "probe/accuracy", 0.10, 0.11, 0.12, 0.50, 0.51, 0.52)
    found.put("a & b_1", "probe/accuracy", 0.15, 0.161, 0.172)
    told = ranking(figures(found)[0], found.evidence)
    assert told is not None and told.decided == 1
    assert [(place.row, place.first, place.last) for place in told.places] == [("a & b_1", 1, 1), ("plain", 2, 2)]
    assert told.places[0].ahead is not None and told.places[0].ahead.estimate == pytest.approx(5.1)


@pytest.mark.parametrize("interval", ["welch", "paired", "block"])
def test_what_is_decided_goes_the_way_of_its_interval(tmp_path: Path, interval: str) -> None:
    """In tables with rows that lack seeds, where seeds differ more than rows."""
    found, draws, decided = Study(tmp_path, SIX + f"interval: {interval}\n"), np.random.default_rng(1), 0
    for _ in range(40):
        seeds = draws.normal(size=6) * 0.2
        for height, label in enumerate(VALUES):
            there = [i in draws.permutation(6)[: draws.integers(3, 7)] for i in range(6)]
            values = 0.5 + seeds + 0.02 * height + 0.01 * draws.normal(size=6)
            for key, value, is_there in zip(found.keys(label), values, there, strict=True):
                found.stored.metrics.setdefault(key, {}).pop("probe/accuracy", None)
                if is_there:
                    found.stored.metrics[key]["probe/accuracy"] = float(value)
        told = ranking(figures(found)[0], found.evidence)
        assert told is not None
        for place in told.places[:-1]:
            if place.is_decided:
                assert place.ahead is not None and place.ahead.estimate > 0
                decided += 1
            assert place.first <= place.last
    assert decided > 0 or interval == "welch"


def test_the_table_and_its_notes_say_what_is_open(tmp_path: Path) -> None:
    found = study(tmp_path)
    (grid,) = ranking_grids(figures(found)[0], found.evidence)
    lines = [[mark.text for mark in line.cells] for line in grid.lines]
    assert [line[:3] for line in lines] == [["1", "1", "a & b_1"], ["2", "2 to 3", "c|d"], ["3", "2 to 3", "plain"]]
    assert lines[0][3].startswith("71.00 ± ") and lines[2][4:] == ["", "", ""]
    told = " ".join(ranking_notes(figures(found)[0], found.evidence))
    assert "of 3 pairs of rows 2 are decided at 5% for all of them together (Welch, Holm)" in told
    assert "1 of 2 neighbours cannot be told apart yet" in told
    drawn = draw_ranking(figures(found)[0], found.evidence)
    labels = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert labels == ["a & b_1", "c|d", "plain"]
    close(drawn)


def test_nothing_is_ranked_before_two_rows_are_measured(tmp_path: Path) -> None:
    found = Study(tmp_path, STUDY + TABLE + FIGURES)
    found.put("plain", "probe/accuracy", 0.5, 0.6, 0.7)
    figure = figures(found)[0]
    assert ranking(figure, found.evidence) is None and draw_ranking(figure, found.evidence) is None
    assert ranking_grids(figure, found.evidence) == [] and ranking_notes(figure, found.evidence) == []


def test_a_rank_is_forbidden_in_at_most_five_of_a_hundred_null_rankings(tmp_path: Path) -> None:
    """Rows that are all the same: any rank that is closed is closed wrongly."""
    found = Study(tmp_path, STUDY + TABLE + FIGURES + "interval: block\n")
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        for label in VALUES:
            found.put(label, "probe/accuracy", *(0.5 + 0.02 * rng.standard_normal(3)))
        one = ranking(figures(found)[0], found.evidence)
        assert one is not None
        wrong += one.decided > 0
    assert wrong <= 18, "5% of 200 and two standard deviations"


def test_a_column_that_cannot_be_ranked_is_refused(tmp_path: Path) -> None:
    Study(tmp_path, STUDY + TABLE + FIGURES)
    (tmp_path / "study.yaml").write_text((STUDY + TABLE + FIGURES).replace("column: FD", "column: Row"))
    with pytest.raises(
        SpecError,
        match=r"figures.1.column: 'Row' is no measured column .* better; legal: FD, Probe %",
    ):
        load(tmp_path / "study.yaml")

"""The page of all reports: a place for each, and links to what other homes wrote beside it."""

from __future__ import annotations

import re
from pathlib import Path

from star.report.index import write_index
from star.report.write import build, write
from tests.report.test_tables import filled


def test_reports_with_one_title_have_their_own_places(tmp_path: Path) -> None:
    report = build(filled(tmp_path).evidence)
    list(write_index([report, report], tmp_path))
    text = (tmp_path / "index.md").read_text()
    assert "- [A study](#a-study)\n- [A study](#a-study-1)\n" in text


def test_an_experiment_at_two_profiles_stands_twice_in_the_index(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    reports = [build(filled(tmp_path / name).evidence) for name in ("one", "two")]
    object.__setattr__(reports[1].experiment, "profile", "larger one")
    list(write_index(reports, tmp_path))
    page = (tmp_path / "index.html").read_text()
    places = re.findall('<li><a href="#([^"]+)">', page)
    assert places == re.findall('<h2 id="([^"]+)">', page) == ["study-at-tiny", "study-at-larger-one"]
    assert "study at larger one" in (tmp_path / "index.md").read_text()


def test_titles_of_other_reports_are_what_they_were(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "a b#1" / "tiny"
    folder.mkdir(parents=True)
    (folder / "report.md").write_text("# 2 \\* 3 \\<b>\n")
    list(write_index([build(filled(tmp_path).evidence)], tmp_path / "reports"))
    assert '<a href="a%20b%231/tiny/report.md">2 * 3 &lt;b&gt;</a>' in (tmp_path / "reports" / "index.html").read_text()
    assert "[2 \\* 3 \\<b>](a%20b%231/tiny/report.md)" in (tmp_path / "reports" / "index.md").read_text()


def test_an_index_lists_what_another_home_wrote_beside_it(tmp_path: Path) -> None:
    report = build(filled(tmp_path).evidence)
    out = tmp_path / "reports"
    list(write([(report, out / "study" / "tiny")]))
    list(write([(report, out / "more_seeds" / "study" / "tiny")]))
    list(write_index([report], out))
    own, _, other = (out / "index.md").read_text().partition("## Other reports in this folder\n")
    assert "](study/tiny/" not in other and "more_seeds" not in own
    assert "- [A study](more_seeds/study/tiny/report.md), more_seeds/study/tiny" in other
    assert '<a href="more_seeds/study/tiny/report.md">A study</a>' in (out / "index.html").read_text()


def test_labels_are_text_where_runs_are_missing(tmp_path: Path) -> None:
    report = build(filled(tmp_path).evidence)
    assert report.table is not None
    row = report.table.rows[0]
    for cell in row.cells:
        if cell.numbers:
            cell.numbers.missing[0] = "not run"
    object.__setattr__(row, "label", "*a* <b>x</b>")
    list(write_index([report], tmp_path / "reports"))
    text = (tmp_path / "reports" / "index.md").read_text()
    assert "study: \\*a\\* \\<b>x" in text

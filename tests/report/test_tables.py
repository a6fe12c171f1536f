"""Tables: what is measured, missing, quoted, best; the same in Markdown, LaTeX, HTML and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from star.pipeline.score import scored
from star.report import markup, render
from star.report.grid import difference_grids, difference_note, main_grid
from star.report.latex import PREAMBLE, latex
from star.report.markup import escaped
from star.report.published import published_of, row_for
from star.report.table import Table, agreements, build_table
from star.report.write import build, provenance, write
from star.spec.load import load
from tests.helpers import ROOT, tiny
from tests.report.stored import FD, STUDY, TABLE, Study


def filled(folder: Path, text: str = STUDY + TABLE) -> Study:
    """A study with numbers that can be checked by eye."""
    study = Study(folder, text)
    study.put("plain", FD, 30.0, 31.0, 32.0)
    study.put("a & b_1", FD, 20.0, 20.0, None)
    study.put("c|d", FD, 24.0, 26.0, 25.0)
    study.put("plain", "probe/accuracy", 0.70, 0.72, 0.71)
    study.put("a & b_1", "probe/accuracy", 0.75, 0.75, 0.75)
    return study


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return build_table(filled(tmp_path).evidence)


def test_markdown(table: Table) -> None:
    assert markup.markdown(main_grid(table)) == [
        "| Row | FD↓ | paper FID | Probe %↑ |",
        "|---|---:|---:|---:|",
        "| *without* |  |  |  |",
        "| plain | 31.00 ± 1.00 | *28.62* | <ins>71.00</ins> ± 1.00 |",
        "| *with* |  |  |  |",
        "| a & b_1 | **20.00** ± 0.00 (2 of 3 seeds; not run) | *26.58* | **75.00** ± 0.00 |",
        "| c\\|d | <ins>25.00</ins> ± 1.00 | *26.36* | (not run) |",
        "| *literature* |  |  |  |",
        "| theirs (quoted) |  | *27.50* |  |",
    ]


def test_published_values_below(tmp_path: Path) -> None:
    text = (STUDY + TABLE).replace("  baseline: plain\n", "  paper: below\n")
    lines = markup.markdown(main_grid(build_table(filled(tmp_path, text).evidence)))
    assert lines[0] == "| Row | FD↓ | Probe %↑ |"
    assert lines[3:5] == ["| plain | 31.00 ± 1.00 | <ins>71.00</ins> ± 1.00 |", "| *paper* | *28.62* |  |"]
    assert lines[-1] == "| theirs (quoted) | *27.50* |  |"


def test_spread_as_an_interval(tmp_path: Path) -> None:
    text = markup.markdown(main_grid(build_table(filled(tmp_path).evidence, spread="interval")))[3]
    assert text.startswith("| plain | 31.00 ± 2.48 |")  # 4.303 / sqrt(3)


def test_differences_to_the_baseline(table: Table) -> None:
    (grid,) = difference_grids(table)
    assert [line.cells[0].text for line in grid.lines] == ["a & b_1", "c|d"]
    assert grid.lines[1].cells[1].text == "-6.00 [-8.27, -3.73]" and grid.lines[1].cells[1].bold
    assert grid.lines[1].cells[2].text == ""


def test_differences_to_two_baselines_are_judged_together(tmp_path: Path) -> None:
    """Two grids; the one baseline minus the other stands once; Holm over the comparisons of both."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = (
        build_table(filled(folder, (STUDY + TABLE).replace("baseline: plain", f"baseline: {given}")).evidence)
        for folder, given in ((tmp_path / "a", "plain"), (tmp_path / "b", '[plain, "a & b_1"]'))
    )
    first, second = difference_grids(two)
    assert [first.heads[0].title, second.heads[0].title] == ["Minus plain", "Minus a & b_1"]
    assert [line.cells[0].text for line in first.lines] == ["a & b_1", "c|d"]
    assert [line.cells[0].text for line in second.lines] == ["c|d"]
    assert second.lines[0].cells[1].text.startswith("+5.00 [")
    alone, among = one.rows[2].cells[1].differences["plain"], two.rows[2].cells[1].differences["plain"]
    assert alone.found == among.found and alone.p is not None
    assert among.p == pytest.approx(1.5 * alone.p), "the smallest p of three comparisons, and of two"
    head = render.comma_separated(two).splitlines()[0]
    assert "FD p to plain" in head and "FD difference to a & b_1" in head


def test_equal_prints_are_equally_good(tmp_path: Path) -> None:
    study = Study(tmp_path)
    for label, value in (("plain", 20.001), ("a & b_1", 20.004), ("c|d", 21.0)):
        study.put(label, FD, value, value, value)
    ranks = [row.cells[1].rank for row in build_table(study.evidence).rows]
    assert ranks == [1, 1, 2, None]


def test_one_row_alone_is_not_the_best(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.put("plain", FD, 1.0)
    assert [row.cells[1].rank for row in build_table(study.evidence).rows] == [None] * 4


def test_rank_agreement(table: Table) -> None:
    assert [(a.title, a.rows) for a in agreements(table)] == [("FD", 3)]
    assert agreements(table)[0].tau == pytest.approx(1 / 3)  # 31, 20, 25 beside 28.62, 26.58, 26.36


def test_notes_say_what_a_reader_must_know(table: Table) -> None:
    text = " ".join(table.notes)
    for told in (
        "Profile tiny",
        "n = 3 seeds (0, 1, 2)",
        "efficientnet-lite0",
        "not the Inception FID",
        "arXiv:2509.15185",
    ):
        assert told in text
    assert table.notes[-1] == "Code 0.1.0+abc, on some CPU (AVX2)."


def test_csv_and_provenance(tmp_path: Path) -> None:
    study = filled(tmp_path)
    report = build(study.evidence)
    assert report.table is not None
    rows = list(csv.DictReader(io.StringIO(render.comma_separated(report.table))))
    assert (rows[0]["FD"], rows[0]["FD n"], rows[0]["FD paper"], rows[0]["FD state"]) == ("31.0", "3", "28.62", "done")
    assert (rows[2]["Probe %"], rows[2]["Probe % state"], rows[3]["quoted"]) == ("", "not run", "quoted")
    assert float(rows[2]["FD high"]) == pytest.approx(-3.733, abs=1e-3)
    found = json.loads(provenance(report, []))
    cell = next(cell for cell in found["cells"] if cell["row"] == "a & b_1" and cell["column"] == "FD")
    keys = study.keys("a & b_1")
    assert [source["run"] for source in cell["sources"]] == keys[:2] and cell["missing"] == {"2": "not run"}
    assert found["runs"][keys[0]]["stages"]["score"]["code"] == "0.1.0+abc"
    assert cell["sources"][0]["stages"] == {"score": found["runs"][keys[0]]["stages"]["score"]["key"]}


class Page(HTMLParser):
    """Collects links, and finds tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values["href"] or ""] if tag == "a" else []
        self.sources += [value or "" for name, value in attrs if name in ("src", "srcset", "data")]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_links_each_cell_to_its_runs(tmp_path: Path) -> None:
    study = filled(tmp_path)
    study.put("c|d", "probe/accuracy", 0.5)
    report = build(study.evidence, "http://server:5000/")
    assert report.table is not None
    text = render.html(report.table, report.link)
    page = Page(text)
    assert len(page.links) == 6 and page.sources == []
    one = study.keys("c|d")[0]
    begins = "http://server:5000/#/experiments/1/runs?searchFilter="
    searches = {unquote(link.removeprefix(begins)) for link in page.links if link.startswith(begins)}
    assert f"tags.`star.run` = '{one}'" in searches
    assert "tags.`star.experiment.study` = 'plain' AND tags.`star.profile` = 'tiny'" in searches
    assert "a &amp; b_1" in text and 'title="30, 31, 32"' in text


PAGES = {
    "one column": r"\documentclass{article}",
    "two columns": r"\documentclass[twocolumn]{article}",
    "a conference's two columns": r"\documentclass[10pt,twocolumn,a4paper]{article}\setlength{\columnsep}{0.8cm}",
}


def compiled(folder: Path, page: str, table: str) -> str:
    """What pdflatex says of a paper that holds the table, and booktabs alone."""
    (folder / "table.tex").write_text(table)
    paper = rf"{page}\usepackage{{booktabs}}\begin{{document}}Text.\input{{table}}\end{{document}}"
    (folder / "paper.tex").write_text(paper)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "paper.tex"], cwd=folder, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "paper.pdf").exists()
    return done.stdout


COMMITTED = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "reports").rglob("*.tex"))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", ["study", "long words", "many rows", *COMMITTED])
def test_latex_compiles_and_fits_the_line(name: str, page: str, table: Table, tmp_path: Path) -> None:
    if name == "long words":
        for row in table.rows:
            row.label = f"{row.label}-{'a_rather_long_label_without_a_space' * 2} and some words more"
            row.cells[0].text = row.label
        table.notes.append("A file: /some/folder/that/is/very/deep/and/has/no/space/anywhere/in/its/name/images.npz")
    if name == "many rows":
        table.rows *= 5
    text = latex(table) if name in ("study", "long words", "many rows") else (ROOT / name).read_text()
    said = compiled(tmp_path, PAGES[page], text)
    assert "Overfull" not in said and "too large" not in said, said


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_has_options(table: Table, tmp_path: Path) -> None:
    """Rows for a tabular of one's own, a table over both columns, no notes."""

    def made(*options: str) -> str:
        spec = table.spec.model_copy(update={"latex": list(options)})
        whole = table.experiment.spec.model_copy(update={"table": spec})
        return latex(replace(table, experiment=replace(table.experiment, spec=whole)))

    rows = made("rows")
    assert "tabular" not in rows and rows.count(r" \\") == len(main_grid(table).lines)
    own = rf"\par\tiny\begin{{tabular}}{{{'l' * len(main_grid(table).heads)}}}{rows}\end{{tabular}}"
    assert "Overfull" not in compiled(tmp_path, PAGES["one column"], own)
    star = made("star")
    assert r"\begin{table*}" in star and r"\end{table*}" in star and r"\ifdim" not in star
    assert "Overfull" not in compiled(tmp_path, PAGES["two columns"], star)
    notes = r"\parbox{\linewidth}{\footnotesize"
    assert notes in star and notes not in made("star", "no-notes")
    assert table.notes[0].split(":")[0] in star and table.notes[0].split(":")[0] not in made("no-notes")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_letters_that_pdflatex_lacks_are_told_apart(table: Table, tmp_path: Path) -> None:
    for row, label in zip(table.rows, ("漢字", "仮名", "Привет", "🙂 ß é"), strict=False):
        row.label = label
        row.cells[0].text = label
    text = latex(table)
    assert "漢" in text and "Overfull" not in compiled(tmp_path, PAGES["two columns"], text)
    width = r"\typeout{width \the\wd0}"
    asked = rf"\sbox0{{{escaped('漢')}}}{width}\sbox0{{U+6F22}}{width}"
    first, second = re.findall(r"width (\S+)", compiled(tmp_path, PAGES["one column"], f"{PREAMBLE[1]}\n{asked}"))
    assert first == second


def test_a_caption_of_several_lines_is_one_in_latex(tmp_path: Path) -> None:
    """An empty line would end the paragraph within the caption; a head's second line would leave its comment."""
    text = (STUDY + TABLE).replace("caption: A study of 50% & more", 'caption: "First\\n\\nsecond"')
    text = text.replace("{title: FD,", '{title: "F\\nD",')
    found = latex(build_table(filled(tmp_path, text).evidence))
    assert r"\caption{First second}" in found and "F D" in found


def test_latex_is_booktabs_with_everything_escaped(table: Table) -> None:
    text = latex(table)
    assert all(
        rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\textbf{20.00}", r"\underline{25.00}")
    )
    assert r"a \& b\_1" in text and r"50\% \& more" in text and r"theirs (quoted)" in text
    assert not re.search(r"(?<!\\)[%#&_](?!\s)", text.split(r"\midrule", 1)[1].replace(" & ", ""))
    assert escaped("a_b ✓ 50%") == r"a\_b $\surd$ 50\%"


def test_a_wide_table_stands_in_two(table: Table) -> None:
    parts = main_grid(table).parts(70)
    assert [[head.title for head in part.heads] for part in parts] == [["Row", "FD", "paper FID"], ["Row", "Probe %"]]
    assert [mark.text for mark in parts[1].lines[1].cells] == ["plain", "71.00"]


@pytest.mark.parametrize("name", [f"table{i}" for i in range(1, 7)])
def test_every_published_row_is_found_once_and_in_order(name: str) -> None:
    """Each row stands beside exactly one published row, but for those that the paper does not have; nothing is left out."""
    experiment = load(ROOT / "experiments" / f"{name}.yaml")
    found = [row_for(experiment, variant) for variant in experiment.variants]
    assert found.count(None) == {"table3": 1}.get(name, 0)
    assert [row for row in found if row is not None] == published_of(experiment).tables[name]


def test_a_bootstrap_makes_bold_what_its_interval_excludes(tmp_path: Path) -> None:
    text = (STUDY + TABLE + "interval: bootstrap\n").replace("seeds: [0, 1, 2]", "seeds: [0, 1, 2, 3, 4]")
    study = Study(tmp_path, text)
    study.put("plain", "probe/accuracy", *(value / 100 for value in (1.0, 1.0, 1.0, 1.0, 1.001)))
    study.put("a & b_1", "probe/accuracy", *(value / 100 for value in (1.1, 1.2, 1.1, 3.9, 2.8)))
    difference = build_table(study.evidence).rows[1].cells[2].differences["plain"]
    assert difference.found.low is not None and difference.found.low > 0
    assert difference.p is not None and difference.p < 0.05
    (tmp_path / "b").mkdir()
    few = build_table(filled(tmp_path / "b", STUDY + TABLE + "interval: bootstrap\n").evidence)
    assert few.rows[1].cells[1].differences["plain"].p is None
    assert difference_note(few) == "Differences, without intervals: those want at least 5 seeds that differ"


def test_published_values_are_quoted_as_they_are_printed(tmp_path: Path) -> None:
    published = "source: Somebody 2026\ntables: {t: [{r: 1, v: 0.01234}, {r: 2, v: 171.4}, {r: 3, v: 7}]}\n"
    (tmp_path / "theirs.yaml").write_text(published)
    text = re.sub(r"published: \{mask_ratio.*\}", "", STUDY).replace(
        "label: plain", "label: plain\n    published: {r: 1}"
    )
    text = text.replace("label: c|d", "label: c|d\n    published: {r: 2}").replace(
        "paper_only: true", "paper_only: true\n    published: {r: 3}"
    )
    table = TABLE.replace("published: table4", "published: t").replace("published: fid", "published: v")
    lines = markup.markdown(
        main_grid(build_table(Study(tmp_path, text + "published_values: theirs.yaml\n" + table).evidence))
    )
    assert [line.split(" | ")[2] for line in lines if "(not run)" in line or "quoted" in line] == [
        "*0.01234*",
        "",
        "*171.40*",
        "*7.00*",
    ]


def test_a_table_of_one_number(tmp_path: Path) -> None:
    table = "table: {caption: c, columns: [{title: NLL, metric: train/val_nll}]}\n"
    text = STUDY.replace("paper_only: true", "paper_only: false\n    spec: {selfguided: {mask_ratio: 0.4}}")
    study = Study(tmp_path, re.sub(r"    published: .*\n", "", text) + table)
    study.put("plain", "train/val_nll", 2.5)
    made = build_table(study.evidence)
    assert "2.50" in latex(made) and "2.50" in markup.markdown(main_grid(made))[3]


def test_odd_labels_stay_what_they_are() -> None:
    for text, shown in (
        ("[a](b)", r"\[a\](b)"),
        ("$x$ ~~y~~", r"\$x\$ \~\~y\~\~"),
        ("AT&amp;T & Co", r"AT\&amp;T & Co"),
        ("# a # b", r"\# a # b"),
        ("- a - b", r"\- a - b"),
        ("12. a", r"12\. a"),
        ("0.25", "0.25"),
        ("> a", r"\> a"),
        ("漢字 é", "漢字 é"),
    ):
        assert markup.plain(text) == shown
    assert markup.plain("a|b *c* <d> `e` _f_ g_h\n2 < 3") == "a\\|b \\*c\\* \\<d> \\`e\\` \\_f\\_ g_h 2 < 3"
    assert escaped("--seeds a---b ?` ''x'' “y” –") == "-{}-seeds a-{}-{}-b ?{}` '{}'x'{}' ``y'' --"
    assert escaped("«đ» ϝ ς ß ž") == (
        r"$\ll$\unicodeletter{0111}{đ}$\gg$ \unicodeletter{03DD}{ϝ} \unicodeletter{03C2}{ς} ß ž"
    )
    assert escaped('α ≤ 1 | "é" 漢') == "$\\alpha$ $\\leq$ 1 \\textbar{} ''é'' \\unicodeletter{6F22}{漢}"


def test_files_of_what_is_no_longer_shown_go(tmp_path: Path) -> None:
    figure = "figures: [{name: probe, kind: curves, title: P, metric: probe/accuracy_by_position}]\n"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name, text in (("one", STUDY + figure + TABLE), ("two", STUDY + TABLE)):
        study = filled(tmp_path / name, text)
        study.put_curve("plain", "probe/accuracy_by_position", {1: 0.5, 2: 0.6})
        list(write([(build(study.evidence), tmp_path / "report")]))
        (tmp_path / "report" / "mine.txt").touch()
        left = {path.name for path in (tmp_path / "report").iterdir()}
        assert ("probe.png" in left and "curves.csv" in left) == (name == "one") and "mine.txt" in left


def test_few_images_bias_distances_and_the_table_says_so() -> None:
    few = tiny(generate__num_images=64, score__num_reference=40, data__train_images=40)
    assert (
        "from 64 samples against 40 training images (64 samples and 40 reference images for 1280 features: distances are biased"
        in (scored(few))
    )
    many = tiny(generate__num_images=3000, score__num_reference=2000, data__train_images=2000)
    assert "biased" not in scored(many)

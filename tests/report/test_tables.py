"""Tables: what is measured, what is missing, what is best, and that LaTeX takes them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from star.report.published import row_for, tables
from star.report.render import comma_separated, escaped, latex, markdown, provenance
from star.report.table import Cell, Source, Table, _mark_best
from star.spec.load import load
from tests.helpers import ROOT, TINY, star_exp


def measured(*values: float, seeds: int | None = None, state: str = "", published: float | None = None) -> Cell:
    sources = [Source(f"run{i}", i, f"mlflow{i}", "score/x", "key", "0.1.0", value) for i, value in enumerate(values)]
    return Cell(sources=sources, seeds=seeds or len(values), state=state, published=published)


@pytest.fixture
def table() -> Table:
    experiment = load(TINY)
    rows = [
        [Cell(text="0.25"), measured(3.0, 5.0, published=26.58), measured(71.5)],
        [
            Cell(text="0.5 & 1_0%"),
            measured(2.0, seeds=2, state="train running", published=27.5),
            Cell(seeds=2, state="train failed"),
        ],
    ]
    for i, column in enumerate(experiment.spec.table.columns):
        _mark_best(column, [row[i] for row in rows])
    return Table(experiment, rows, ["a", "b"], {}, ["“Paper” columns & more: 5 % ± 1."], [])


def test_markdown(table: Table) -> None:
    lines = markdown(table).splitlines()
    assert lines[2:6] == [
        "| Mask ratio | FD↓ | paper FID | Probe %↑ |",
        "|---|---:|---:|---:|",
        "| 0.25 | 4.00 ± 1.41 | 26.58 | 71.50 |",
        "| 0.5 & 1_0% | **2.00** (1 of 2 seeds; train running) | 27.50 | (train failed) |",
    ]


def test_csv_and_provenance(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(table))))
    assert (rows[0]["FD"], rows[0]["FD n"], rows[0]["FD paper"]) == ("4.0", "2", "26.58")
    assert (rows[1]["Probe %"], rows[1]["Probe % state"]) == ("", "train failed")
    cells = json.loads(provenance(table))["cells"]
    assert [source["mlflow_run"] for source in cells[0]["sources"]] == ["mlflow0", "mlflow1"]
    assert cells[3]["missing"] == "train failed"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(table: Table, tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(latex(table))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{table}\\end{document}"
    )
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "paper.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").exists()


def test_latex_is_booktabs_with_everything_escaped(table: Table) -> None:
    text = latex(table)
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\textbf{2.00}"))
    assert r"0.5 \& 1\_0\%" in text
    assert not re.search(r"(?<!\\)[%#&_](?!\s)", text.split(r"\midrule")[1].replace(" & ", ""))
    assert escaped("a_b ✓ 50%") == r"a\_b $\surd$ 50\%"


@pytest.mark.parametrize("name", [f"table{i}" for i in range(1, 7)])
def test_every_published_row_of_ours_is_found(name: str) -> None:
    """Each row stands beside exactly one published row, but for those that the paper does not have."""
    experiment = load(ROOT / "experiments" / f"{name}.yaml")
    found = [row_for(experiment, variant) for variant in experiment.variants]
    without = {"table3": 1}.get(name, 0)
    assert found.count(None) == without
    present = [row for row in found if row is not None]
    assert len({id(row) for row in present}) == len(present)
    ours = [row for row in tables()[name] if name != "table2" or str(row["model"]).startswith("LlamaGen")]
    assert len(present) == len(ours)


def test_a_table_before_and_after_its_runs(home: Path) -> None:
    early = star_exp("report", TINY, home=home, cwd=home)
    assert early.returncode == 2 and "jobs but no ledger; `star-exp reindex`" in early.stderr
    short = ["--set", "optim.steps=5"]
    temporary = home / "tmp"
    temporary.mkdir()
    done = star_exp("run", TINY, "--plain", *short, home=home, cwd=home, env={**os.environ, "TMPDIR": str(temporary)})
    assert done.returncode == 0, done.stdout + done.stderr
    text = (home / "reports" / "tiny" / "tiny" / "table.md").read_text()
    assert len(re.findall(r"\| \**\d+\.\d\d\** \| (26\.58|)", text)) >= 2 and "samples-0.png" in text
    assert (home / "reports" / "tiny" / "tiny" / "samples-1.png").exists()
    assert not list(temporary.rglob("*.png")), "a report leaves nothing behind"
    longer = star_exp("report", TINY, "--set", "optim.steps=6", home=home, cwd=home)
    assert longer.returncode == 0
    assert (home / "reports" / "tiny" / "tiny" / "table.md").read_text().count("(not run)") == 4

"""The study of docs/own-study.md, built as the page says: its files, its commands, real runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import yaml

from tests.helpers import ROOT, star_exp
from tests.report.test_tables import Page


def written(folder: Path) -> None:
    """The page's files, the miniature profile under the names that the page uses, and somebody's samples."""
    for name, text in re.findall(
        r"```yaml\n# (\S+)\n(.*?)```", (ROOT / "docs" / "own-study.md").read_text(), re.DOTALL
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    profile = yaml.safe_load((ROOT / "tests" / "profiles" / "tiny.yaml").read_text())
    profile["base"]["optim"]["steps"] = 5
    (folder / "experiments" / "profiles").mkdir()
    (folder / "experiments" / "profiles" / "fashion.yaml").write_text(
        yaml.safe_dump(profile | {"presets": {"B": {}, "50ep": {}}})
    )
    (folder / "samples").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 3), dtype=np.uint8)
    np.savez(folder / "samples" / "diffusion.npz", arr_0=images)


def test_the_page_is_true(home: Path) -> None:
    written(home)
    file, reports = Path("experiments") / "temperature.yaml", home / "reports" / "temperature" / "fashion"
    early = star_exp("report", file, home=home, cwd=home)
    assert early.returncode == 2 and "jobs but no ledger; `star-exp reindex`" in early.stderr
    (home / "tmp").mkdir()
    done = star_exp("run", file, "--plain", home=home, cwd=home, TMPDIR=str(home / "tmp"))
    assert done.returncode == 0, done.stdout + done.stderr
    text = (reports / "report.md").read_text()
    rows: dict[str, str] = {}
    for line in text.splitlines():
        rows.setdefault(line.split(" | ")[0].strip("| "), line)
    assert "± " in rows["cold"] and "*12.40*" in rows["cold"] and "Smith et al. 2026" in text
    assert re.search(r"\*4\.20\* \| - \|", rows["diffusion"]), "scored like ours, and nothing to probe"
    assert "Late decline↓" in text
    assert re.search(r"Kendall's tau.*: FD [-+]\d\.\d\d \(3 rows\)\.$", text, re.MULTILINE), "two pairs have none"
    for name in ("probe.png", "probe.pdf", "by-temperature.png", "table.tex", "table.html", "table.csv", "claims.json"):
        assert (reports / name).stat().st_size > 100
    cells = json.loads((reports / "provenance.json").read_text())["cells"]
    theirs = next(cell for cell in cells if cell["row"] == "diffusion" and cell["column"] == "FD")
    assert len(theirs["sources"]) == 1 and set(theirs["sources"][0]["stages"]) == {"score"}
    trained = {path.name.split("-")[0] for path in (home / "jobs").iterdir()}
    assert "train" in trained and len(list((home / "jobs").glob("train-*"))) == 4, (
        "two rows of two seeds; images need none"
    )

    assert not list((home / "tmp").rglob("*.png")), "a report leaves nothing behind"
    longer = star_exp("report", file, "--set", "optim.steps=6", "--out", "longer", home=home, cwd=home)
    assert longer.returncode == 0
    assert (home / "longer" / "temperature" / "fashion" / "report.md").read_text().count("| (not run)") == 6

    warmer = star_exp("plan", "experiments/warmer.yaml", home=home, cwd=home)
    assert warmer.returncode == 0 and "  hot " in warmer.stdout and "4 rows, 4 runs" in warmer.stdout, warmer.stderr
    rates = star_exp("plan", file, "--name", "rates", "--set", "optim.lr=[1e-3, 2e-3]", home=home, cwd=home)
    assert (
        rates.returncode == 0 and "  warm, lr=0.002 " in rates.stdout and "its claims, table.baseline" in rates.stderr
    )

    judged = star_exp("claims", file, home=home, cwd=home)
    assert judged.returncode == 0 and "no-decline: Neither declines at the end (n = 2)" in judged.stdout
    verdicts = {claim["verdict"] for claim in json.loads((reports / "claims.json").read_text())["claims"]}
    failing = (
        star_exp("claims", file, "--fail-on", verdicts.pop(), home=home, cwd=home)
        if "supported" not in verdicts
        else None
    )
    assert failing is None or failing.returncode == 1
    everything(home)


def everything(home: Path) -> None:
    """`report --all`: one page with everything in it, the same bytes each time."""
    for out in ("one", "two"):
        done = star_exp("report", "--all", "--out", out, home=home, cwd=home)
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = ({p.relative_to(home / o): p.read_bytes() for p in (home / o).rglob("*.*")} for o in ("one", "two"))
    assert first == second and len(first) > 10
    text = (home / "one" / "index.html").read_text()
    page = Page(text)
    assert page.sources and all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "http" not in re.sub(r'href="[^"]*"', "", text), "nothing is fetched"
    for told in ("Claims of all experiments", "CPU-h", "all experiments, each stage once", "Missing"):
        assert told in text
    index = (home / "one" / "index.md").read_text()
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", index):
        assert (home / "one" / target).exists()


def test_samples_that_are_not_there_leave_the_row_quoted(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "samples" / "diffusion.npz").unlink()
    shown = star_exp("plan", Path("experiments") / "temperature.yaml", home=tmp_path / "home", cwd=tmp_path)
    assert "3 rows, 4 runs" in shown.stdout, shown.stdout + shown.stderr

"""One report of all experiments: tables, figures, claims, cost, and what is missing."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from star.report import cost, markup, render
from star.report.claims import CONTRADICTED, SUPPORTED, ClaimResult
from star.report.contrasts import UNDECIDED
from star.report.grid import Grid, Head, Line, Mark
from star.report.write import Report, html, markdown
from star.rundir import write_bytes

if TYPE_CHECKING:
    from star.report.study import StudyReport

TITLE = "All results"
OTHERS = "Other reports in this folder"
COSTS_NOTE = (
    "Hours of GPUs, or of CPU cores where there was none, over all seeds of a row; stages that several rows of an experiment share stand "
    "apart, and experiments share runs, so that the whole is less than the sum."
)
ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
"""A character that Markdown shows as it is."""
OTHERS_NOTE = "Written from other homes, or under other names; their claims and costs are not counted above."


def write_index(reports: list[Report], out: Path, studies: Sequence[StudyReport] = ()) -> Iterator[Path]:
    """Write index.md and a self-contained index.html into `out`, where the reports were written; yields their paths."""
    out.mkdir(parents=True, exist_ok=True)
    others = _others(out, {*(_folder(report) for report in reports), *(study.folder for study in studies)})
    pages = {
        "index.md": "\n".join(_markdown(reports, studies, others)) + "\n",
        "index.html": _html(reports, studies, others),
    }
    for name, text in pages.items():
        write_bytes(out / name, text.encode())
        yield out / name


def _folder(report: Report) -> str:
    return f"{report.experiment.name}/{report.experiment.profile}/"


def _others(out: Path, shown: set[str]) -> dict[str, str]:
    """Return path -> title of the reports in `out` that are not `shown` here: another home wrote them."""
    found = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("report.md"))}
    return {
        name: ESCAPED.sub(r"\1", path.read_text(errors="replace").partition("\n")[0].removeprefix("# "))
        for name, path in found.items()
        if name.removesuffix("report.md") not in shown
    }


def _markdown(reports: list[Report], studies: Sequence[StudyReport], others: dict[str, str]) -> list[str]:
    titles = [*(report.experiment.spec.title for report in reports), *(study.search.spec.title for study in studies)]
    links = zip(titles, _anchors(titles), strict=True)
    lines = [f"# {TITLE}", "", *(f"- [{markup.plain(title)}](#{anchor})" for title, anchor in links), ""]
    judgements = [one for report in reports for one in report.judgements]
    if judgements:
        lines += ["## Claims of all experiments", "", _counted(judgements), "", *markup.markdown(_verdicts(reports))]
    for report in reports:
        lines += ["", *markdown(report, 2, _folder(report))]
    if studies:  # imported late, because it imports Optuna
        from star.report.study_text import markdown as study_markdown
    for study in studies:
        lines += ["", *study_markdown(study, 2, study.folder)]
    lines += ["", "## Cost", "", COSTS_NOTE, "", *markup.markdown(_costs(reports))]
    lines += ["", "## Missing", "", *(f"- {markup.plain(line)}" for line in _missing(reports) or ["nothing"])]
    linked = [
        f"- [{markup.plain(title)}]({quote(path)}), {path.removesuffix('/report.md')}" for path, title in others.items()
    ]
    return lines + ["", f"## {OTHERS}", "", OTHERS_NOTE, "", *linked] if others else lines


def _html(reports: list[Report], studies: Sequence[StudyReport], others: dict[str, str]) -> str:
    names = _names(reports, studies)
    titles = [*(report.experiment.spec.title for report in reports), *(study.search.spec.title for study in studies)]
    ids = ["".join(c if c.isalnum() or c in "-_" else "-" for c in name) for name in names]
    links = "".join(f'<li><a href="#{i}">{escape(title)}</a></li>' for i, title in zip(ids, titles, strict=True))
    lines = [f"<h1>{TITLE}</h1>", f"<ul>{links}</ul>"]
    judgements = [one for report in reports for one in report.judgements]
    if judgements:
        lines += ["<h2>Claims of all experiments</h2>", f"<p>{escape(_counted(judgements))}</p>"]
        lines += markup.html(_verdicts(reports), lambda runs: "")
    for report, anchor in zip(reports, ids, strict=False):
        lines += html(report, _embedded, anchor)
    if studies:
        from star.report.study_text import html as study_html
    for study, anchor in zip(studies, ids[len(reports) :], strict=True):
        lines += study_html(study, _embedded, anchor)
    lines += ["<h2>Cost</h2>", f"<p>{escape(COSTS_NOTE)}</p>", *markup.html(_costs(reports), lambda runs: "")]
    missing = "".join(f"<li>{escape(line)}</li>" for line in _missing(reports) or ["nothing"])
    lines += ["<h2>Missing</h2>", f"<ul>{missing}</ul>"]
    linked = "".join(
        f'<li><a href="{quote(path)}">{escape(title)}</a>, {escape(path)}</li>' for path, title in others.items()
    )
    return render.page(
        TITLE, [*lines, f"<h2>{OTHERS}</h2>", f"<p>{OTHERS_NOTE}</p>", f"<ul>{linked}</ul>"] if others else lines
    )


def _names(reports: Sequence[Report], studies: Sequence[StudyReport] = ()) -> list[str]:
    """The experiments' and searches' names, with the profile where a name is there at several."""
    found = [(report.experiment.name, report.experiment.profile) for report in reports]
    found += [(study.search.name, study.search.profile) for study in studies]
    often = Counter(name for name, _ in found)
    return [name if often[name] == 1 else f"{name} at {profile}" for name, profile in found]


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _anchors(titles: Sequence[str]) -> Iterator[str]:
    """Anchors as GitHub makes them from titles, with a number after a repeated one."""
    seen: Counter[str] = Counter()
    for title in titles:
        kept = (c for c in title.lower() if c.isalnum() or c in " -_")
        anchor = "".join(kept).replace(" ", "-")
        yield f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor
        seen[anchor] += 1


def _counted(judgements: list[ClaimResult]) -> str:
    found = Counter(one.verdict for one in judgements)
    parts = [f"{found[verdict]} {verdict}" for verdict in (SUPPORTED, CONTRADICTED, UNDECIDED)]
    return f"{len(judgements)} claims: {', '.join(parts)}. What each rests on stands with its experiment."


def _verdicts(reports: list[Report]) -> Grid:
    grid = Grid(
        [Head("claim", numeric=False), Head("verdict", numeric=False), Head("n"), Head("experiment", numeric=False)]
    )
    for report, name in zip(reports, _names(reports), strict=True):
        for one in report.judgements:
            cells = [
                Mark(one.text),
                Mark(one.verdict, bold=True),
                Mark(one.counts),
                Mark(name),
            ]
            grid.lines.append(Line(cells))
    return grid


def _costs(reports: list[Report]) -> Grid:
    grid = Grid([Head("row", numeric=False), Head("hours")])
    for report in reports:
        grid.lines.append(Line([Mark(report.experiment.spec.title, italic=True)], group=True))
        grid.lines += [Line([Mark(one.label), Mark(str(one))]) for one in cost.costs(report.evidence)]
    whole = cost.total(report.evidence for report in reports)
    grid.lines.append(Line([Mark(whole.label, bold=True), Mark(str(whole), bold=True)]))
    return grid


def _missing(reports: list[Report]) -> list[str]:
    lines = []
    for report, name in zip(reports, _names(reports), strict=True):
        for row in report.table.rows if report.table else ():
            states = Counter(state for cell in row.cells if cell.numbers for state in cell.numbers.missing.values())
            if states:
                lines.append(f"{name}: {row.label}: {', '.join(states)}")
        lines += [f"{name}: figure {figure.name}" for figure in report.figures if figure.name not in report.pictures]
        lines += [
            f"{name}: claim {one.claim.id}: {one.note}" for one in report.judgements if one.note.startswith("missing")
        ]
    return lines

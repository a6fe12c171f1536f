"""One experiment's report: its table, figures and claims, and the files with their provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from star.report import claims_markup, curves, markup, render
from star.report.claims import ClaimResult
from star.report.evidence import Evidence
from star.report.grid import Grid, difference_grids, difference_note, main_grid
from star.report.latex import latex
from star.report.looks import judge_all
from star.report.markup import Link
from star.report.noise import noise_grid
from star.report.notes import conditions, versions
from star.report.over_seeds import over_seeds
from star.report.ranking_markup import ranking_grids, ranking_notes
from star.report.rest import rests_of, told_rest
from star.report.table import Agreement, Table, agreements, build_table
from star.report.trend_markup import comma_separated, trend_grids, trend_notes
from star.rundir import read_json, write_bytes
from star.spec.experiment import Experiment
from star.spec.reporting import CurvesFigure, FigureSpec, RankingFigure, TrendFigure
from star.tracking.writer import KEY_TAG, USED_BY

MLFLOW_UI = "http://127.0.0.1:5000"
"""Default address of `mlflow ui`."""
PROVENANCE = "provenance.json"


@dataclass
class Report:
    """The data of one experiment's report."""

    evidence: Evidence
    table: Table | None
    judgements: list[ClaimResult]
    agreement: list[Agreement]
    link: Link
    pictures: dict[str, Path]
    """Figure name -> path of its PNG, for the figures that could be drawn."""

    @property
    def experiment(self) -> Experiment:
        """The experiment that the report is about."""
        return self.evidence.experiment

    @property
    def figures(self) -> list[FigureSpec]:
        """All figures of the experiment, drawn or not."""
        return list(self.experiment.spec.figures)


def build(evidence: Evidence, mlflow_ui: str = MLFLOW_UI, spread: str | None = None) -> Report:
    """Build a report from what is tracked; its pictures are drawn by `write`."""
    table = build_table(evidence, spread) if evidence.experiment.spec.table else None
    agreement = agreements(table) if table else []
    return Report(evidence, table, judge_all(evidence), agreement, linker(evidence, mlflow_ui), {})


def linker(evidence: Evidence, mlflow_ui: str) -> Link:
    """A function from the keys of runs to the URL of MLflow's list of one run, or of the runs of a row.

    The URL searches for tags, because MLflow's own run ids differ between stores: a report made from an imported bundle
    must have the same bytes.
    """
    experiment, labels = evidence.experiment, {run.key: run.label for run in evidence.plan.runs}

    def link(runs: tuple[str, ...]) -> str:
        found = evidence.tracked[runs[0]].experiment_id
        if len(runs) == 1:
            wanted = f"tags.`{KEY_TAG}` = '{runs[0]}'"
        else:
            wanted = f"tags.`{USED_BY}{experiment.name}` {_equals(labels[runs[0]])} AND tags.`star.profile` = '{experiment.profile}'"
        return f"{mlflow_ui.rstrip('/')}/#/experiments/{found}/runs?searchFilter={quote(wanted)}"

    return link


def _equals(label: str) -> str:
    """A condition for MLflow's search. It has no escapes, so a quotation mark in the label matches any character."""
    return f"= '{label}'" if "'" not in label else "LIKE '" + label.replace("'", "_") + "'"


def write(reports: Sequence[tuple[Report, Path]]) -> Iterator[Path]:
    """Write reports into their folders, all figures first, and delete files they no longer have; yields the paths."""
    yield from _draw(reports)
    for report, folder in reports:
        files = [file.name for picture in report.pictures.values() for file in both(picture)]
        before = (read_json(folder / PROVENANCE) or {}).get("files", [])
        texts = _texts(report)
        texts[PROVENANCE] = provenance(report, [*files, *texts])
        for name, text in texts.items():
            write_bytes(folder / name, text.encode())
            yield folder / name
        for name in set(before) - {*files, *texts}:  # of a figure or claim that the experiment no longer has
            (folder / Path(name).name).unlink(missing_ok=True)


def _draw(reports: Sequence[tuple[Report, Path]]) -> Iterator[Path]:
    from star.report.figures.parallel import write_together

    tasks, owners = [], []
    for report, folder in reports:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in report.figures:
            tasks.append((figure, report.evidence, report.table, folder))
            owners.append((report, figure.name))
    for (report, name), picture in zip(owners, write_together(tasks), strict=True):
        if picture is not None:
            report.pictures[name] = picture
            yield from both(picture)


def both(picture: Path) -> tuple[Path, Path]:
    """Paths of a figure's PNG and of the PDF beside it."""
    return picture, picture.with_suffix(".pdf")


def _texts(report: Report) -> dict[str, str]:
    table = report.table
    texts = {"report.md": "\n".join(markdown(report)) + "\n"}
    if table is not None:
        texts["table.tex"] = latex(table)
        texts["table.html"] = render.html(table, report.link)
        texts["table.csv"] = render.comma_separated(table)
    if curves.curves_of(report.evidence):
        texts["curves.csv"] = curves.comma_separated(report.evidence)
    if any(isinstance(figure, TrendFigure) for figure in report.figures):
        texts["trends.csv"] = comma_separated(report.evidence)
    if report.judgements or report.agreement:
        texts["claims.json"] = (
            json.dumps(claims_markup.data(report.judgements, report.agreement, report.evidence.rejudged), indent=1)
            + "\n"
        )
    return texts


def markdown(report: Report, level: int = 1, folder: str = "") -> list[str]:
    """The report as lines of GitHub Markdown.

    Args:
        level: heading level of its title.
        folder: folder of its pictures, relative to the Markdown file, with a slash at the end.
    """
    evidence, below = report.evidence, "#" * (level + 1)
    lines = [f"{'#' * level} {markup.plain(report.experiment.spec.title)}", ""]
    if report.table is not None:
        lines += markup.markdown(main_grid(report.table))
        differences = difference_grids(report.table)
        if differences:
            lines += ["", f"{difference_note(report.table)}:"]
        for grid in differences:
            lines += ["", *markup.markdown(grid)]
        lines += ["", *(f"{markup.plain(note)}  " for note in report.table.notes)]
        for grid in filter(None, [noise_grid(evidence, report.table), over_seeds(evidence, report.table)]):
            lines += ["", *markup.markdown(grid)]
    else:
        lines += [f"{markup.plain(note)}  " for note in (conditions(evidence), *versions(evidence))]
    if report.judgements:
        lines += ["", f"{below} Claims", "", *claims_markup.markdown(report.judgements)]
        lines += [
            "",
            *(f"- would decide {markup.plain(told_rest(one))}" for one in rests_of(report.judgements, evidence)),
        ]
    changed = claims_markup.rejudged_text(evidence.rejudged)
    lines += ["", markup.plain(changed)] if changed else []
    if report.agreement:
        lines += ["", claims_markup.agreement_text(report.agreement)]
    for figure in report.figures:
        title = markup.plain(figure.title)
        lines += ["", f"{below} {title}", ""]
        picture = report.pictures.get(figure.name)
        lines += [f"![{title}]({folder}{picture.name})" if picture else "(not measured yet)"]
        if isinstance(figure, CurvesFigure):
            values = curves.markdown(figure, evidence)
            lines += ["", *values] if values else []
        grids, notes = below_figure(figure, evidence)
        for grid in grids:
            lines += ["", *markup.markdown(grid)]
        lines += ["", *(f"{markup.plain(note)}  " for note in notes)] if notes else []
    return lines


def below_figure(figure: FigureSpec, evidence: Evidence) -> tuple[list[Grid], list[str]]:
    """Tables below a figure, and the notes on them; both empty for figures without."""
    if isinstance(figure, TrendFigure):
        return trend_grids(figure, evidence), trend_notes(figure, evidence)
    if isinstance(figure, RankingFigure):
        return ranking_grids(figure, evidence), ranking_notes(figure, evidence)
    return [], []


def html(report: Report, picture: Callable[[Path], str], anchor: str) -> list[str]:
    """The report as lines of HTML, which begin at `anchor`; `picture` turns the path of a PNG into an image source."""
    title = escape(report.experiment.spec.title)
    lines = [f'<h2 id="{anchor}">{title}</h2>']
    if report.table is not None:
        lines += render.html_parts(report.table, report.link)
        for grid in filter(
            None, [noise_grid(report.evidence, report.table), over_seeds(report.evidence, report.table)]
        ):
            lines += markup.html(grid, report.link)
    else:
        about = (conditions(report.evidence), *versions(report.evidence))
        lines.append("<p><small>" + "<br>".join(escape(note) for note in about) + "</small></p>")
    if report.judgements:
        lines += ["<h3>Claims</h3>", *claims_markup.html(report.judgements)]
        rest = [
            f"<li>would decide {escape(told_rest(one))}</li>" for one in rests_of(report.judgements, report.evidence)
        ]
        lines += ["<ul>", *rest, "</ul>"] if rest else []
    changed = claims_markup.rejudged_text(report.evidence.rejudged)
    lines += [f"<p>{escape(changed)}</p>"] if changed else []
    if report.agreement:
        lines.append(f"<p>{escape(claims_markup.agreement_text(report.agreement))}</p>")
    for figure in report.figures:
        path = report.pictures.get(figure.name)
        shown = f'<img alt="{escape(figure.title)}" src="{picture(path)}">' if path else "(not measured yet)"
        lines.append(f"<figure>{shown}<figcaption>{escape(figure.title)}</figcaption></figure>")
        grids, notes = below_figure(figure, report.evidence)
        for grid in grids:
            lines += markup.html(grid, report.link)
        if notes:
            lines.append("<p><small>" + "<br>".join(escape(note) for note in notes) + "</small></p>")
    return lines


def provenance(report: Report, files: list[str]) -> str:
    """Provenance as JSON: runs, keys, code and tracked values of each cell, the stages of each run, and `files`."""
    evidence = report.evidence
    runs = {
        run.key: {
            "row": run.label,
            "seed": run.seed,
            "stages": {
                stage: {"key": key, "code": origin.get("code")}
                for stage, key in run.stages.items()
                if (origin := evidence.provenance(run, stage))
            },
        }
        for run in evidence.plan.runs
        if run.key in evidence.tracked
    }
    experiment = report.experiment
    cells = render.cells_of(report.table) if report.table else []
    head = f'{{\n"experiment": {json.dumps(experiment.name)},\n"profile": {json.dumps(experiment.profile)},\n'
    listed = ",\n".join(json.dumps(cell) for cell in cells)
    by_run = ",\n".join(f"{json.dumps(key)}: {json.dumps(run)}" for key, run in runs.items())
    head += f'"files": {json.dumps(files)},\n'
    return f'{head}"cells": [\n{listed}\n],\n"runs": {{\n{by_run}\n}}\n}}\n'  # a line for each, and three times as fast

"""The files of a search's report."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from star.report import render
from star.report.study import StudyReport, cells_of
from star.report.study_text import html, markdown
from star.report.write import provenance
from star.rundir import write_bytes
from star.search.best import best
from star.search.study import HOURS, PROMOTED, RUN, WHY
from star.spec.diff import ABSENT, differences
from star.spec.load import profile_base


def write_study(report: StudyReport, out: Path) -> Iterator[Path]:
    """Write all files of a study's report below OUT; yields their paths."""
    folder = out / report.folder
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"trials.csv": trials_csv(report)}
    if report.study.complete():
        from star.report.figures.study import write_all

        write_all(report, folder)
        texts |= _of_complete(report, folder)
    texts["report.md"] = "\n".join(markdown(report)) + "\n"
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())
        yield folder / name
    for picture in report.pictures.values():
        yield from (picture, picture.with_suffix(".pdf"))


def _of_complete(report: StudyReport, folder: Path) -> dict[str, str]:
    texts = {"best.yaml": best_yaml(report, folder)}
    lines = html(report, lambda picture: picture.name)
    texts["report.html"] = render.page(report.search.spec.title, lines)
    for name, part in (("top", report.top), ("confirmed", report.confirmed)):
        if part is not None and part.table is not None:
            texts[f"{name}.tex"] = render.latex(part.table)
            texts[f"{name}.csv"] = render.comma_separated(part.table)
            texts[f"{name}.json"] = provenance(part, [])
    return texts


def trials_csv(report: StudyReport) -> str:
    """One line per trial: state, values, parameters, hours, run, and why it ended as it did."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    space, objectives = list(report.search.spec.space), report.search.spec.objectives
    writer.writerow(
        [
            "trial",
            "goes on from",
            "state",
            *(one.metric for one in objectives),
            *space,
            "last step",
            "hours",
            "run",
            "why",
        ]
    )
    for trial in report.trials:
        ended_early = trial.state.name == "PRUNED"
        values: list[Any] = [] if ended_early else list(trial.values or [])
        values += [""] * (len(objectives) - len(values))
        steps = trial.intermediate_values
        last = max(steps) if ended_early and steps else ""
        notes = [trial.user_attrs.get(name, "") for name in (HOURS, RUN, WHY)]
        point = [trial.params.get(name, "") for name in space]
        before = trial.user_attrs.get(PROMOTED, "")
        writer.writerow([trial.number, before, trial.state.name.lower(), *values, *point, last, *notes])
    return buffer.getvalue()


def best_yaml(report: StudyReport, folder: Path) -> str:
    """The default and the best trials as an experiment that `star-exp run` takes; its runs are those of the search."""
    search, confirm = report.search, report.search.spec.confirm
    part = report.confirmed or report.top
    table = part.experiment.spec.table
    assert table is not None
    base: dict[str, Any] = {}
    for one in differences(profile_base(search.profile_file), search.base.value):
        if one.new is not ABSENT:
            _put(base, one.path, one.new)
    rows = []
    for number, point in best(report.study, confirm.top if confirm else 1):
        spec: dict[str, Any] = {}
        for name, value in point.items():
            _put(spec, name, value)
        rows.append({"label": f"trial {number}", "spec": spec, "cells": cells_of(point)})
    content = {
        "experiment": f"{search.name}-best",
        "title": f"{search.spec.title}: the best trials",
        "profile": os.path.relpath(search.profile_file, folder),
        "base": base,
        "seeds": list(confirm.seeds if confirm else search.spec.seeds),
        "targets": list(search.targets),
        "rows": rows,
        "table": table.model_dump(mode="json", exclude_defaults=True),
    }
    head = "# The best trials of a search, beside its default (trial 0). Written by `star-exp report`.\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _put(whole: dict[str, Any], path: str, value: Any) -> None:
    *sections, field = path.split(".")
    for section in sections:
        whole = whole.setdefault(section, {})
    whole[field] = value

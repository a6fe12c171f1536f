"""The files of a search's report."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from star.report import render
from star.report.latex import latex
from star.report.study import StudyReport, cells_of
from star.report.study_text import html, markdown, note_comparisons
from star.report.write import provenance
from star.rundir import write_bytes
from star.search.best import best
from star.search.study import HOURS, IMPOSSIBLE, PROMOTED, RUN, SAME_AS, WHY
from star.spec.diff import ABSENT, differences
from star.spec.own_parts import DECLARED
from star.spec.plugin_parts import Plugin
from star.spec.points import EARLY, early_label, tidied
from star.spec.profiles import profile_base
from star.spec.yamldoc import dump


def write_study(report: StudyReport, out: Path) -> Iterator[Path]:
    """Write all files of a study's report below `out`; yields their paths."""
    folder = out / report.folder
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"trials.csv": trials_csv(report)}
    note_comparisons(report)
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
    lines = html(report, lambda picture: picture.name, report.search.name)
    texts["report.html"] = render.page(escape(report.search.spec.title), lines)
    for name, part in (("top", report.top), ("confirmed", report.confirmed)):
        if part is not None and part.table is not None:
            texts[f"{name}.tex"] = latex(part.table)
            texts[f"{name}.csv"] = render.comma_separated(part.table)
            texts[f"{name}.json"] = provenance(part, [])
    return texts


def trials_csv(report: StudyReport) -> str:
    """Trials as CSV, one line per trial: state, values, parameters, hours, run, and why it ended as it did."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    space, objectives = list(report.search.spec.space), report.search.spec.objectives
    early = early_runs(report)
    head = ["trial", "goes on from", "state", *(one.metric for one in objectives), *space]
    writer.writerow([*head, "compared at step", "value there", "hours", "run", "why"])
    for trial in report.trials:
        values: list[Any] = [] if trial.state == TrialState.PRUNED else list(trial.values or [])
        values += [""] * (len(objectives) - len(values))
        last = max(trial.intermediate_values, default=None)
        compared = ["", ""] if last is None else [last, trial.intermediate_values[last]]
        run = trial.user_attrs.get(RUN, "")
        if trial.state == TrialState.PRUNED and last is not None:  # its run to the end was never planned
            run = early.get(early_label(f"trial {trial.number}", last), "")
        notes = [trial.user_attrs.get(HOURS, ""), run, trial.user_attrs.get(WHY, "")]
        point = [
            tidied(one, trial.params[name]) if name in trial.params else ""
            for name, one in report.search.spec.space.items()
        ]
        before = trial.user_attrs.get(PROMOTED, "")
        writer.writerow([trial.number, before, _state(trial), *values, *point, *compared, *notes])
    return buffer.getvalue()


def early_runs(report: StudyReport) -> dict[str, str]:
    """Row label -> key of its first seed's run, for the runs that end at a comparison between trials."""
    name, profile = f"{report.search.name}{EARLY}", report.search.profile
    rows = report.ledger.runs.experiments(name, profile) if report.ledger else []
    return {row.row: row.run for row in reversed(rows)}


def _state(trial: FrozenTrial) -> str:
    """A trial's state in the words of the report."""
    if IMPOSSIBLE in trial.user_attrs:
        return "no legal run"
    if SAME_AS in trial.user_attrs:
        return f"the run of {trial.user_attrs[SAME_AS]}"
    words = {TrialState.PRUNED: "ended early", TrialState.FAIL: "failed", TrialState.RUNNING: "under way"}
    return words.get(trial.state, trial.state.name.lower())


def best_yaml(report: StudyReport, folder: Path) -> str:
    """The default and the best trials as an experiment file for `star-exp run`; its runs are those of the search."""
    search, confirm = report.search, report.search.spec.confirm
    part = report.confirmed or report.top
    table = part.experiment.spec.table
    assert table is not None
    base: dict[str, Any] = {}
    known = profile_base(search.profile_file) if search.profile_file else {}
    for one in differences(known, {name: value for name, value in search.base.value.items() if name not in DECLARED}):
        if one.new is not ABSENT:
            _put(base, one.path, one.new)
    rows = []
    for number, point in best(report.study, confirm.top if confirm else 1):
        spec: dict[str, Any] = {}
        for name, value in point.items():
            _put(spec, name, tidied(search.spec.space[name], value))
        rows.append({"label": f"trial {number}", "spec": spec, "cells": cells_of(point)})
    # a parameter with a `when` may be in none of these rows
    shown = [one for one in table.columns if one.cell is None or any(one.cell in row["cells"] for row in rows)]
    table = table.model_copy(update={"columns": shown})
    content = {
        "experiment": f"{search.name}-best",
        "title": f"{search.spec.title}: the best trials",
        **({"profile": os.path.relpath(search.profile_file, folder)} if search.profile_file else {}),
        **({"stages": search.base.value["stages"]} if search.spec.stages else {}),
        **(
            {"plugins": [_place(name, one) for name, one in search.spec.plugins.items()]} if search.spec.plugins else {}
        ),
        "base": base,
        "seeds": list(confirm.seeds if confirm else search.spec.seeds),
        "targets": list(search.targets),
        "rows": rows,
        "table": table.model_dump(mode="json", exclude_defaults=True),
    }
    head = "# The best trials of a search, beside its default (trial 0). Written by `star-exp report`.\n"
    return head + dump(content)


def _place(name: str, plugin: Plugin) -> str:
    """A plugin's name for a file in any folder: a .py file by its path in the plugin's folder."""
    return str(Path(plugin.folder) / f"{plugin.module}.py") if name.endswith(".py") else name


def _put(whole: dict[str, Any], path: str, value: Any) -> None:
    *sections, field = path.split(".")
    for section in sections:
        whole = whole.setdefault(section, {})
    whole[field] = value

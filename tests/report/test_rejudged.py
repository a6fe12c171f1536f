"""What was changed of claims and intervals after there were results is kept in the home and shown in reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from star.report import claims_markup
from star.report.evidence import Evidence
from star.report.looks import judge_all
from star.report.write import build, markdown
from star.rundir import Home
from star.scheduler.plan import Plan
from star.scheduler.registration import record
from star.scheduler.rejudged import rejudged
from star.spec.load import load
from tests.report.stored import STUDY, Study

CLAIM = """
claims:
  - {{id: it, text: It holds, interval: {interval}, that: [{{kind: less, metric: probe/accuracy, row: "a & b_1", than: [plain]{margin}}}]}}
"""


def finish(plan: Plan, home: Home, count: int) -> None:
    """Pretend that the first `count` runs have reached their targets."""
    for run in plan.runs[:count]:
        for stage in plan.experiment.targets:
            job = home.job(stage, run.stages[stage])
            job.result.parent.mkdir(parents=True, exist_ok=True)
            job.result.write_text('{"metrics": {}}')


def changed(study: Study, text: str) -> Plan:
    """The study's plan with another file."""
    path = study.folder / "study.yaml"
    path.write_text(text)
    return replace(study.plan, experiment=load(path))


def test_what_was_changed_after_results_is_kept_and_shown(tmp_path: Path) -> None:
    before = STUDY + CLAIM.format(interval="welch", margin="")
    study, home = Study(tmp_path, before), Home(tmp_path / "home")
    record(study.plan, home)
    free = changed(study, before.replace("interval: welch", "interval: paired"))
    assert rejudged(home, free.experiment) == [], "without results everything may still be chosen"
    record(free, home)
    finish(study.plan, home, 2)
    later = changed(study, before.replace("seeds: [0, 1, 2]", "seeds: [0, 1, 2]\ninterval: block"))
    now = ["intervals: welch became block", "claim it: paired became welch"]
    assert rejudged(home, later.experiment) == [f"{what}, in the file as it is now" for what in now]
    record(later, home)
    kept = rejudged(home, later.experiment)
    assert [one.partition(", on ")[0] for one in kept] == now
    assert all(one.endswith("when 2 of 9 runs had results") for one in kept)
    finish(study.plan, home, 9)
    last = changed(study, STUDY + CLAIM.format(interval="welch", margin=", margin: 1").replace("id: it", "id: other"))
    record(last, home)
    after = rejudged(home, last.experiment)
    assert after[:2] == kept, "nothing is forgotten"
    assert {one.partition(", on ")[0] for one in after[2:]} >= {"claim other: added", "claim it: left out"}
    assert all("when 9 of 9" in one for one in after[2:])
    record(last, home)
    assert rejudged(home, last.experiment) == after, "the same file again changes nothing"


def test_a_changed_formula_and_other_rows_are_changes_too(tmp_path: Path) -> None:
    claim = "\nclaims:\n  - {id: it, text: It, that: [{kind: best_at, metric: good, better: higher, row: plain}]}\n"
    before = STUDY + "metrics: {good: '[probe/accuracy]', other: '[probe/accuracy] * 2'}\n" + claim
    study, home = Study(tmp_path, before), Home(tmp_path / "home")
    record(study.plan, home)
    finish(study.plan, home, 1)
    same = changed(study, before.replace("[probe/accuracy] * 2", "[probe/accuracy] * 3"))
    assert rejudged(home, same.experiment) == [], "no claim names it"
    formula = changed(study, before.replace("'[probe/accuracy]'", "'-1 * [probe/accuracy]'"))
    said = "metric good: [probe/accuracy] became -1 * [probe/accuracy], in the file as it is now"
    assert rejudged(home, formula.experiment) == [said]
    start, end = before.index("  - label: c|d"), before.index("  - label: theirs")
    fewer = before[:start] + before[end:]
    said = "rows, of which it speaks: plain, a & b_1, c|d became plain, a & b_1, in the file as it is now"
    assert rejudged(home, changed(study, fewer).experiment) == [said]


def test_reports_and_claims_show_it(tmp_path: Path) -> None:
    study = Study(tmp_path, STUDY + CLAIM.format(interval="welch", margin=""))
    evidence = Evidence(
        study.plan, None, study.stored, ["intervals: welch became block, on 2026-01-02, when 3 of 9 runs had results"]
    )
    said = (
        "Changed after there were results: intervals: welch became block, on 2026-01-02, when 3 of 9 runs had results."
    )
    assert said in markdown(build(evidence))
    data = claims_markup.data(judge_all(evidence), [], evidence.rejudged)
    assert json.loads(json.dumps(data))["changed_after_results"] == list(evidence.rejudged)
    assert not any("Changed after" in line for line in markdown(build(study.evidence)))

"""Claims: each kind of predicate supported, contradicted and undecided, from numbers that are written down."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from star.errors import SpecError
from star.report import claims_markup
from star.report.claims import CONTRADICTED, SUPPORTED, ClaimResult
from star.report.claims_markup import number
from star.report.contrasts import UNDECIDED
from star.report.looks import judge_all
from tests.report.stored import FD, STUDY, Study

METRIC = "score/{extractor}/frechet_distance"
CURVE = "probe/accuracy_by_position"
LOW, MIDDLE, HIGH = (10.0, 10.1, 9.9), (20.0, 20.1, 19.9), (30.0, 30.1, 29.9)


def judge(folder: Path, *predicates: str, interval: str = "t", **numbers: tuple[float, ...]) -> ClaimResult:
    """One claim over three rows, whose distances are given by their order of rows: plain, ab, cd."""
    folder.mkdir(exist_ok=True)
    lines = "".join(f"      - {{{text}}}\n" for text in predicates)
    claim = f"claims:\n  - id: it\n    text: It holds\n    interval: {interval}\n    that:\n{lines}"
    study = Study(folder, STUDY + claim)
    for name, label in (("plain", "plain"), ("ab", "a & b_1"), ("cd", "c|d")):
        study.put(label, FD, *numbers.get(name, ()))
    (found,) = judge_all(study.evidence)
    return found


LESS = f'kind: less, metric: "{METRIC}", row: "a & b_1", than: [plain, "c|d"]'
BEST = f'kind: best_at, metric: "{METRIC}", better: lower, row: "a & b_1", rows: [plain, "a & b_1", "c|d"]'
RISES = f'kind: monotone, metric: "{METRIC}", direction: increasing, rows: [plain, "a & b_1", "c|d"]'


@pytest.mark.parametrize("predicate", [LESS, BEST])
def test_less_and_best(predicate: str, tmp_path: Path) -> None:
    yes = judge(tmp_path / "yes", predicate, plain=MIDDLE, ab=LOW, cd=HIGH)
    assert yes.verdict == SUPPORTED and yes.count == 3 and all(part.verdict == SUPPORTED for part in yes.parts)
    assert yes.parts[0].found is not None and yes.parts[0].found.estimate == pytest.approx(10.0)
    assert yes.parts[0].change is not None and yes.parts[0].change.estimate == pytest.approx(-10.0), "told as it is"
    assert "distance: a & b_1 < plain: -10" in claims_markup.markdown([yes])[2]
    assert yes.parts[0].effect is not None and yes.parts[0].effect < -50
    no = judge(tmp_path / "no", predicate, plain=LOW, ab=MIDDLE, cd=HIGH)
    assert no.verdict == CONTRADICTED and [part.verdict for part in no.parts] == [CONTRADICTED, SUPPORTED]
    close = judge(tmp_path / "close", predicate, plain=(20.0, 22.0, 24.0), ab=(19.0, 21.0, 23.5), cd=HIGH)
    assert close.verdict == UNDECIDED and "seeds would support it" in close.note
    worse = judge(tmp_path / "worse", predicate, plain=(19.0, 21.0, 23.5), ab=(20.0, 22.0, 24.0), cd=HIGH)
    assert worse.verdict == UNDECIDED and "seeds would contradict it" in worse.note


def test_a_claim_names_the_metric_that_it_is_judged_on(tmp_path: Path) -> None:
    """The paper's words say FID; what was measured is another network's distance."""
    own = judge(tmp_path / "own", LESS, plain=MIDDLE, ab=LOW, cd=HIGH)
    said = "It holds (judged on FD of efficientnet-lite0, not the paper's on Inception)"
    assert own.text == said and said in claims_markup.plain(own)[0] and said in claims_markup.markdown([own])[2]
    assert judge(tmp_path / "probe", LESS.replace(METRIC, "probe/accuracy")).text == "It holds"


def test_a_row_of_ours_that_is_not_there_leaves_it_undecided(tmp_path: Path) -> None:
    found = judge(tmp_path / "a", LESS, plain=MIDDLE, ab=LOW)
    assert found.verdict == UNDECIDED and found.note == "missing: c|d (not run)" and found.count == 0
    assert found.parts[0].verdict == SUPPORTED, "the part that is there is judged"
    wrong = judge(tmp_path / "b", LESS, plain=LOW, ab=MIDDLE)
    assert wrong.verdict == CONTRADICTED, "what one part contradicts no other can undo"


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    found = judge(tmp_path, LESS, plain=(20.0,), ab=(10.0,), cd=(30.0,))
    assert found.verdict == UNDECIDED and "one measurement has no spread" in found.note and found.count == 1


def test_margins(tmp_path: Path) -> None:
    by = lambda margin: LESS.replace(', "c|d"', "") + f", margin: {margin}"  # noqa: E731
    verdicts = {
        margin: judge(tmp_path / f"m{i}", by(margin), plain=MIDDLE, ab=LOW).verdict
        for i, margin in enumerate(('"40%"', '"60%"', "9", "11"))
    }
    assert verdicts == {'"40%"': SUPPORTED, '"60%"': CONTRADICTED, "9": SUPPORTED, "11": CONTRADICTED}
    # "comparable": at most 5% worse
    near = judge(tmp_path / "near", by('"-5%"'), plain=(20.0, 20.01, 19.99), ab=(20.5, 20.51, 20.49))
    assert near.verdict == SUPPORTED
    far = judge(tmp_path / "far", by('"-5%"'), plain=(20.0, 20.01, 19.99), ab=(21.5, 21.51, 21.49))
    assert far.verdict == CONTRADICTED


def test_monotone(tmp_path: Path) -> None:
    assert judge(tmp_path / "a", RISES, plain=LOW, ab=MIDDLE, cd=HIGH).verdict == SUPPORTED
    assert judge(tmp_path / "b", RISES, plain=HIGH, ab=MIDDLE, cd=LOW).verdict == CONTRADICTED
    dip = judge(tmp_path / "c", RISES, plain=LOW, ab=HIGH, cd=MIDDLE)
    assert dip.verdict == CONTRADICTED, "the trend rises, but a step falls beyond doubt"
    flat = judge(tmp_path / "d", RISES, plain=LOW, ab=(20.0, 20.5, 19.5), cd=(20.1, 20.4, 19.4))
    assert flat.verdict == SUPPORTED, "a step that is within the noise does not count against a trend"
    assert judge(tmp_path / "e", RISES, plain=LOW, ab=MIDDLE).note == "missing: c|d (not run)"


def test_a_trend_over_rows_that_are_scored_in_different_ways_is_none(tmp_path: Path) -> None:
    text = STUDY.replace("{selfguided: {mask_ratio: 0.5}}", "{selfguided: {mask_ratio: 0.5}, score: {input_size: 64}}")
    study = Study(tmp_path, text + f"claims:\n  - {{id: it, text: It holds, that: [{{{RISES}}}]}}\n")
    for label, values in (("plain", MIDDLE), ("a & b_1", MIDDLE), ("c|d", LOW)):
        study.put(label, FD, *values)
    (found,) = judge_all(study.evidence)
    assert found.verdict == UNDECIDED
    assert found.parts[0].missing == ["rows that are scored in different ways"]


def curves_study(
    folder: Path, predicate: str, ours: list[dict[int, float]], theirs: list[dict[int, float]]
) -> ClaimResult:
    folder.mkdir(exist_ok=True)
    study = Study(folder, STUDY + f"claims:\n  - {{id: it, text: It holds, that: [{{{predicate}}}]}}\n")
    study.put_curve("a & b_1", CURVE, *ours)
    study.put_curve("plain", CURVE, *theirs)
    (found,) = judge_all(study.evidence)
    return found


def rising(shift: float) -> dict[int, float]:
    return {6: 0.5 + shift, 37: 0.7 + shift, 49: 0.72 + shift}


def falling(shift: float) -> dict[int, float]:
    return {6: 0.4 + shift, 37: 0.6 + shift, 49: 0.55 + shift}


SHIFTS = (0.0, 0.001, -0.001)
WOBBLE = ({37: 0.0, 49: 0.0}, {37: 0.001, 49: 0.002}, {37: 0.0, 49: -0.001})


def test_decline_after_a_share_of_the_curve(tmp_path: Path) -> None:
    """Each seed against itself: seeds that lie far apart but all fall are a decline."""
    apart = list(zip((0.0, 0.2, -0.2), WOBBLE, strict=True))
    keeps = f"kind: no_decline_after, metric: {CURVE}, row: 'a & b_1', after: 3/4"
    falls = f"kind: decline_after, metric: {CURVE}, row: 'a & b_1', after: 3/4"
    up, down = (
        [{step: value + wobble.get(step, 0) for step, value in shape(shift).items()} for shift, wobble in apart]
        for shape in (rising, falling)
    )
    assert curves_study(tmp_path / "a", keeps, up, []).verdict == SUPPORTED
    assert curves_study(tmp_path / "b", keeps, down, []).verdict == CONTRADICTED
    assert curves_study(tmp_path / "c", falls, down, []).verdict == SUPPORTED
    assert curves_study(tmp_path / "d", falls, up, []).verdict == CONTRADICTED
    assert curves_study(tmp_path / "e", keeps + ", tolerance: 0.06", down, []).verdict == SUPPORTED
    assert curves_study(tmp_path / "f", keeps, [], []).note.startswith("missing: a & b_1 (not run)")
    diverged = [{**down[0], 49: math.nan}, *up[1:]]
    assert curves_study(tmp_path / "g", keeps, diverged, []).parts[0].count == 2, "not by what it was before"
    gone = [{**one, 49: math.nan} for one in down]
    assert "a & b_1 (not a number)" in curves_study(tmp_path / "h", keeps, gone, []).note


def test_a_curve_is_compared_at_every_step(tmp_path: Path) -> None:
    above = f"kind: greater, metric: {CURVE}, row: 'a & b_1', than: [plain]"
    found = curves_study(tmp_path / "a", above, [rising(s) for s in SHIFTS], [falling(s) for s in SHIFTS])
    assert found.verdict == SUPPORTED and [part.metric for part in found.parts] == [f"{CURVE}@{s}" for s in (6, 37, 49)]
    crossing = [falling(s) | {49: 0.9 + s} for s in SHIFTS]
    found = curves_study(tmp_path / "b", above, [rising(s) for s in SHIFTS], crossing)
    assert found.verdict == CONTRADICTED and claims_markup.shown(found)[0].metric == f"{CURVE}@49", (
        "what decides comes first"
    )


def test_a_curve_that_diverged_is_above_nothing(tmp_path: Path) -> None:
    """Its first step alone would say so."""
    above = f"kind: greater, metric: {CURVE}, row: 'a & b_1', than: [plain]"
    gone = [{6: 0.9 + s, 37: math.nan, 49: math.nan} for s in SHIFTS]
    found = curves_study(tmp_path, above, gone, [rising(s) for s in SHIFTS])
    assert found.verdict == UNDECIDED and "not a number" in found.note


def test_curves_that_cannot_tell_do_not(tmp_path: Path) -> None:
    """The step nearest to three quarters is the last one; a job that has not ended; seeds that agree to the last digit."""
    keeps = f"kind: no_decline_after, metric: {CURVE}, row: 'a & b_1', after: 3/4"
    short = [{32: 0.6, 64: 0.3 + shift} for shift in SHIFTS]
    assert "no step recorded between 3/4" in curves_study(tmp_path / "a", keeps, short, []).note
    same = [{6: 0.4, 37: 0.6, 49: 0.7}] * 3
    assert "the seeds agree to the last digit" in curves_study(tmp_path / "b", keeps, same, []).note


def test_rows_that_are_only_quoted_are_not_what_a_row_is_the_best_of(tmp_path: Path) -> None:
    found = judge(tmp_path, BEST.partition(", rows")[0], plain=MIDDLE, ab=LOW, cd=HIGH)
    assert found.verdict == SUPPORTED and len(found.parts) == 2


def test_a_share_of_a_negative_number(tmp_path: Path) -> None:
    by = LESS.replace(', "c|d"', "").replace("kind: less", "kind: greater") + ', margin: "5%"'
    found = judge(tmp_path, by, plain=(-10.0, -10.01, -9.99), ab=(-10.2, -10.21, -10.19))
    assert found.verdict == CONTRADICTED and found.parts[0].text == "a & b_1 > 0.95 x plain"


def test_the_bootstrap_wants_five_seeds(tmp_path: Path) -> None:
    found = judge(tmp_path, LESS, interval="bootstrap", plain=MIDDLE, ab=LOW, cd=HIGH)
    assert found.verdict == UNDECIDED and "5 seeds" in found.note


def contradicted(rng: np.random.Generator, rows: int) -> bool:
    from star.report.stats import LEVEL, Sample, contrast

    values = rng.normal(size=(rows, 3))
    strict = 1 - (1 - LEVEL) / (rows - 1)
    found = [contrast([Sample(1.0, list(values[0])), Sample(-1.0, list(other))], strict) for other in values[1:]]
    return any(one.high is not None and one.high < 0 for one in found)


def test_a_claim_over_equal_rows_is_contradicted_in_at_most_one_of_twenty() -> None:
    rng = np.random.default_rng(0)
    share = np.mean([contradicted(rng, 4) for _ in range(2000)])
    assert 0 < share < 0.05


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (
            LESS.replace("plain", "plian"),
            r"study.yaml:\d+: claims.0.that.0.than: 'plian' is no row \(did you mean plain\?\)",
        ),
        (LESS.replace("{extractor}/", ""), "claims.0.that.0.metric: .*is no result"),
        (BEST.replace(METRIC, CURVE), "is a curve; say where to read it"),
        ("kind: decline_after, metric: probe/accuracy, row: plain, after: 3/4", "is no curve"),
        (
            f"kind: decline_after, metric: {CURVE}, row: plain, after: 1.5",
            r"that.0.after: 1.5 is not legal; give a fraction below 1, such as 3/4",
        ),
        (
            "kind: lesser, metric: probe/accuracy, row: plain, than: [plain]",
            r"that.0: kind: 'lesser' is not legal \(did you mean less\?\)",
        ),
        (RISES.replace(', "c|d"', ""), "a trend needs three rows"),
        (LESS.replace("than: [plain", 'than: ["a & b_1"'), "compares 'a & b_1' with itself"),
        (BEST.replace('[plain, "a & b_1", "c|d"]', '["a & b_1"]'), "wants 2 different rows"),
        (f"kind: decline_after, metric: {CURVE}, row: plain, after: 3/2", "lies below 1"),
        (
            LESS + ", margin: 5 percent",
            "that.0.margin: '5 percent' is not legal; give a number or a percentage, such as 5%",
        ),
    ],
)
def test_a_wrong_claim_is_refused(claim: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        judge(tmp_path, claim)


@pytest.mark.parametrize(
    "value, shown",
    [
        (0.0123456, "+0.0123"),
        (-12.34, "-12.3"),
        (999.4, "+999"),
        (999.9, "+1000"),
        (-999.6, "-1000"),
        (1234.5, "+1234"),
    ],
)
def test_numbers_of_claims_have_three_digits_and_no_exponent(value: float, shown: str) -> None:
    assert number(value) == shown

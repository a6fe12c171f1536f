"""Mistakes that would be taken in silence, or end in a traceback: each has one sentence with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from star.errors import SpecError
from star.report import published
from star.report.claims import verdict_of
from star.report.contrasts import UNDECIDED
from star.spec.claims import Claim
from star.spec.load import load
from star.spec.load_search import load_search
from star.spec.run_base import value_at
from star.spec.run_class import parse_run
from tests.helpers import ROOT, TINY

PROFILE = ROOT / "tests" / "profiles" / "tiny.yaml"
HEAD = f"experiment: x\ntitle: X\nprofile: {PROFILE}\n"
ROWS = """rows:
  - {label: ours}
  - {label: other, spec: {selfguided: {temperature: 0.5}}}
  - {label: theirs, paper_only: true, published: {mask_ratio: 0.25}}
"""
TABLE = "table: {caption: c, published: table4, columns: [{title: P, metric: probe/accuracy}]}\n"
CLAIM = "claims: [{{id: c, text: t, that: [{}]}}]\n"
STAGE = """experiment: s
title: S
rows: [{{label: one}}]
stages:
  fit: {{command: "python fit.py --w {{w}}", parameters: {{w: {w}}}, {more}}}
table: {{caption: c, columns: [{{title: A, metric: fit/acc}}]}}
"""


def written(folder: Path, text: str) -> Path:
    (folder / "x.yaml").write_text(text)
    (folder / "fit.py").write_text("")
    return folder / "x.yaml"


def compares(**fields: object) -> str:
    return CLAIM.format(yaml.safe_dump(fields, default_flow_style=True).strip())


@pytest.mark.parametrize(
    "text, says",
    [
        (
            ROWS
            + TABLE
            + compares(kind="best_at", metric="probe/accuracy", better="higher", row="ours", rows=["ours"]),
            "wants 2",
        ),
        (
            ROWS + TABLE + compares(kind="monotone", metric="probe/accuracy", direction="increasing"),
            "wants 3 different rows",
        ),
        (
            ROWS + TABLE + compares(kind="less", metric="probe/accuracy", row="ours", than=["theirs"]),
            "'theirs' is only quoted",
        ),
        (
            ROWS + TABLE + compares(kind="less", metric="probe/accuracy", row="ours", than=["other", "other"]),
            "names a row twice",
        ),
        (
            ROWS
            + TABLE
            + compares(kind="less", metric="probe/accuracy", row="ours", than=["other"], margin=float("inf")),
            "margin",
        ),
        (ROWS + TABLE.replace("columns", "baseline: theirs, columns"), "'theirs' is only quoted"),
        (ROWS + TABLE.replace("metric: probe/accuracy", "cell: sise"), "'sise': no row has such a cell"),
        (ROWS + TABLE.replace("accuracy}", "accuracy, scale: 0}"), "scale"),
        (ROWS.replace("true,", "true, spec: {generat: {samples: a}},") + TABLE, "did you mean generate"),
        (
            "axes: {optim.lr: [0.1, 0.2]}\n" + TABLE.replace("columns", "noise: optim.lr, columns"),
            "is no noise of measuring",
        ),
        (
            ROWS + TABLE + "figures: [{name: f, kind: curves, title: t, metric: train/val_nll_by_step}]\n",
            "is not recorded",
        ),
        ("base: {selfguided: {inter_step: !!bool yes}}\n" + ROWS + TABLE, "'yes' with tag"),
        (f"base: {{optim: {{steps: {10**30}}}}}\n" + ROWS + TABLE, "is beyond any number here"),
        ("base: {data: {path: /my/images}}\n" + ROWS + TABLE, "give data.name too"),
        (
            "base: {data: {name: image-folder, path: ~nobody-of-that-name/images}}\n" + ROWS + TABLE,
            "there is no user of that name",
        ),
        (
            "axes: {selfguided.mask_ratio: [0.25, 0.5]}\nrows:\n  - {label: ours}\n"
            "  - {label: 'ours, mask_ratio=0.25', spec: {selfguided: {mim_weight: 0, contrastive_weight: 0, num_views: 1}}}\n"
            + TABLE,
            "two rows are called 'ours, mask_ratio=0.25'",
        ),
        ("search: y\n" + ROWS + TABLE, "has both `experiment` and `search`"),
        (
            ROWS + TABLE + "metrics: {a b: '[probe/accuracy]'}\n",
            "metrics.a b: 'a b' is not legal as a name; give at most 100",
        ),
        (ROWS.replace("ours", "''") + TABLE, "rows.0.label: '' is not legal; give text that is not empty"),
        (
            ROWS + TABLE + "published_values: nowhere.yaml\n",
            "x.yaml:9: published_values: .*nowhere.yaml: there is no such file",
        ),
    ],
)
def test_a_sentence_with_its_place(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=says) as found:
        load(written(tmp_path, HEAD + text))
    assert str(found.value).startswith(str(tmp_path))


def test_a_claim_against_its_tables_direction_and_a_figure_of_one_place_are_noted(tmp_path: Path) -> None:
    table = "table: {caption: c, columns: [{title: P, metric: probe/accuracy, better: higher}]}\n"
    figure = "figures: [{name: f, kind: ablation, title: t, x: optim.lr}]\n"
    claim = compares(kind="best_at", metric="probe/accuracy", better="lower", row="ours")
    rows = ROWS.replace(", published: {mask_ratio: 0.25}", "")
    notes = load(written(tmp_path, HEAD + rows + table + figure + claim)).notes
    assert "claim c: ours is the best where probe/accuracy is lower; the column P says higher" in notes
    assert any(
        note.startswith("figure f: optim.lr is ") and note.endswith("in all its rows: it has one place")
        for note in notes
    )
    figure = figure.replace("optim.lr", "selfguided.temperature")
    assert not load(written(tmp_path, HEAD + rows + table + figure + claim.replace("lower", "higher"))).notes


def test_a_column_beside_no_published_table(tmp_path: Path) -> None:
    table = TABLE.replace("published: table4, ", "").replace("accuracy}", "accuracy, published: fid}")
    with pytest.raises(SpecError, match="give `table.published`"):
        published.check(load(written(tmp_path, HEAD + "rows: [{label: ours}]\n" + table)))


def test_a_row_beside_no_published_one(tmp_path: Path) -> None:
    text = ROWS.replace("- {label: ours}", "- {label: ours, published: {mask_ratio: 0.123}}")
    with pytest.raises(SpecError, match="'ours' stands beside a published one, but the published table4 has no row"):
        published.check(load(written(tmp_path, HEAD + text + TABLE)))


@pytest.mark.parametrize(
    "w, more, says",
    [
        (1, "results: [acc], results_file: /tmp/all.json", "results_file"),
        (1, "results: [acc], results_file: ../all.json", "results_file"),
        (1, "results: [acc, a//b]", "is no name that MLflow takes"),
        (1, "results: [acc], curves: {of: x}", "says in a line where the script is"),
        (".inf", "results: [acc]", "is no finite number"),
        (1, "results: [acc], folder: ~nobody-of-that-name/x", "there is no user of that name"),
        (
            1,
            "results: [acc], attach: [../result.json]",
            r"fit.attach.0: '../result.json': give the path of one file in \{out\}",
        ),
        (1, "results: [acc], attach: [/etc/hostname]", "fit.attach.0"),
        (1, "results: [acc], attach: ['*.png']", "fit.attach.0"),
        (
            1,
            "results: {acc: 'a(.)'}, results_file: all.json",
            "fit.results_file: is not read where results are patterns",
        ),
        (1, "results: [acc], files: ['']", "fit.files.0: '' is no pattern of files"),
        (1, "results: [acc], files: ['.']", "fit.files.0: '.' "),
        (1, "results: [acc], files: ['**foo']", r"fit.files.0: '\*\*foo' "),
    ],
)
def test_commands(w: object, more: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=says):
        load(written(tmp_path, STAGE.format(w=w, more=more)))


def test_a_shells_word_in_a_command_that_no_shell_reads(tmp_path: Path) -> None:
    text = STAGE.format(w=1, more="results: [acc]")
    with pytest.raises(SpecError, match="no shell reads it, which && would need"):
        load(written(tmp_path, text.replace("--w {w}", "--w {w} && python fit.py")))
    load(written(tmp_path, text.replace("--w {w}", "--w {w} 'a && b' --separator '|' \\\\; 'x; $HOME'")))


@pytest.mark.parametrize(
    "command, sign",
    [
        ("python fit.py --w {w}; echo done", ";"),
        ("python fit.py --w {w} >log.txt", ">"),
        ("python fit.py --w {w} 2>/dev/null", "2>/dev/null"),
        ("python fit.py --w {w} &", "&"),
        ("python fit.py --w {w} --x $(nproc)", r"\$\("),
        ("python fit.py --w {w} --x $HOME/foo", r"\$H"),
        ("python fit.py --w {w} --x ~/bar", "~/bar"),
        ("OMP_NUM_THREADS=1 python fit.py --w {w}", "OMP_NUM_THREADS=1"),
        ("python fit.py --w {w} `nproc`", "`"),
        ("python fit.py --w {w} | tee log.txt", r"\|"),
    ],
)
def test_shell_signs_that_stand_close(command: str, sign: str, tmp_path: Path) -> None:
    text = STAGE.format(w=1, more="results: [acc]").replace('"python fit.py --w {w}"', f"'{command}'")
    with pytest.raises(SpecError, match=rf"fit.command: no shell reads it, which {sign}.* would need"):
        load(written(tmp_path, text))

    if command.startswith("python"):
        load(written(tmp_path, text.replace(f"'{command}'", f"'bash -c \"{command}\"'")))


def test_a_broken_limit_of_a_whole_number(tmp_path: Path) -> None:
    path = written(tmp_path, STAGE.format(w="{default: 3, ge: 0.5, lt: 3.5}", more="results: [acc]"))
    assert load(path).variants[0].runs[0].section("fit")["w"] == 3
    with pytest.raises(SpecError, match="fit.w"):
        load(path, sets=["fit.w=4"])
    with pytest.raises(SpecError, match="fit.w"):
        load(path, sets=["fit.w=0"])


@pytest.mark.parametrize(
    "sets, says",
    [
        (["optim.lr=0.1", "optim.lr=0.2"], "optim.lr is given twice"),
        (["data.path=~nobody-of-that-name/x"], "no user of that name"),
    ],
)
def test_options(sets: list[str], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        load(TINY, sets=sets)
    with pytest.raises(SpecError, match="no profile ''"):
        load(TINY, profile="")
    with pytest.raises(SpecError, match="seeds belong to the search"):
        load_search(ROOT / "tests" / "tiny_search.yaml", sets=["seed=3"])


def test_sweeps_of_two_fields_of_one_name_have_two_columns() -> None:
    spec = load(TINY, sets=["optim.steps=[5, 6]", "tokenizer.steps=[3, 4]"]).spec
    assert spec.table is not None and [column.title for column in spec.table.columns][1:3] == [
        "optim.steps",
        "tokenizer.steps",
    ]


def test_a_row_is_meant_by_its_label_whatever_brackets_it_has(tmp_path: Path) -> None:
    experiment = load(written(tmp_path, HEAD + ROWS.replace("ours", "'rates [0.1]'") + TABLE))
    assert [variant.label for variant in experiment.only(["rates [0.1]"]).variants] == ["rates [0.1]"]


def test_a_file_of_one_number_is_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="x.yaml:1: holds no mapping"):
        load(written(tmp_path, "42\n"))


@pytest.mark.parametrize(
    "add, says",
    [
        ("seeds: [1, 2]", r"its default, \[0\], would be lost"),
        ("rows: [{label: more}]", "axes and no rows, and its own would be lost"),
    ],
)
def test_what_is_added_replaces_no_default(add: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=says):
        load(written(tmp_path, f"experiment: y\nextends: {TINY}\nadd: {{{add}}}\n"))


def test_parts_that_never_begin_are_noted(tmp_path: Path) -> None:
    notes = load(TINY, sets=["optim.warmup_steps=30", "probe.warmup_epochs=3"]).notes
    assert [note.partition(":")[0] for note in notes] == ["optim.warmup_steps", "probe.warmup_epochs"]
    assert load(TINY).notes == ()


def test_published_values_of_the_experiments_own_name_do_not_replace_it(tmp_path: Path) -> None:
    (tmp_path / "values").mkdir()
    (tmp_path / "values" / "x.yaml").write_text("source: nobody\ntables: {}\n")
    kept = load(
        written(
            tmp_path,
            HEAD
            + "rows: [{label: ours}]\npublished_values: values/x.yaml\n"
            + TABLE.replace("published: table4, ", ""),
        )
    ).written
    assert (
        yaml.safe_load(kept["x.yaml"])["published_values"] == "published-x.yaml"
        and "nobody" in kept["published-x.yaml"]
    )


def test_a_claim_of_nothing_is_undecided() -> None:
    claim = Claim.model_validate(
        {"id": "c", "text": "t", "that": [{"kind": "less", "metric": "a/b", "row": "x", "than": ["y"]}]}
    )
    assert verdict_of(claim, []).verdict == UNDECIDED and verdict_of(claim, []).count == 0


def test_a_sweep_leaves_out_comparisons_with_rows_of_the_file() -> None:
    experiment = load(ROOT / "experiments" / "objectives.yaml", sets=["optim.lr=[0.001, 0.002]"])
    assert not experiment.spec.against and experiment.spec.table is not None
    assert [column.title for column in experiment.spec.table.columns] == [
        *("Objective", "Published FID (baseline): source", "Parameters trained (M)", "FD above the floor", "Probe %"),
        "Validation NLL",
    ]
    assert [figure.name for figure in experiment.spec.figures] == ["ranking-probe", "samples"]
    assert "against.times" in experiment.notes[0] and experiment.notes[0].endswith("the figure ranking")


def test_axes_that_multiply_to_more_than_memory_holds(tmp_path: Path) -> None:
    values = list(range(1, 1001))
    text = f"axes: {{optim.steps: {values}, model.dim: {values}}}\n" + TABLE
    with pytest.raises(SpecError, match=r"x.yaml:4: axes: 1000 x 1000 values give 1,000,000 rows"):
        load(written(tmp_path, HEAD + text))


@pytest.mark.parametrize(
    "formula, says",
    [
        (" + ".join(["[probe/accuracy]"] * 1500), "has more than 200 terms"),
        ("2 * [probe/accuracy] if 1 else 0", r"'2 \* \[probe/accuracy\] if 1 else 0' is not allowed"),
        ("min([probe/accuracy_by_position@last])", r"'min\(\[probe/accuracy_by_position@last\]\)' is not allowed"),
    ],
)
def test_formulas(formula: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"x.yaml:4: metrics.mine: .*{says}"):
        load(written(tmp_path, HEAD + f'metrics: {{mine: "{formula}"}}\nrows: [{{label: ours}}]\n' + TABLE))


@pytest.mark.parametrize(
    "change, says",
    [
        (("published: table4", "published: table44"), r"x.yaml:8: table.published: 'table44'"),
        (("mask_ratio: 0.25", "mask_rati: 0.25"), r"x.yaml:7: rows.2.published.mask_rati: .*did you mean mask_ratio"),
        (
            ("accuracy}", "accuracy, published: fidd}"),
            r"x.yaml:8: table.columns.0.published: 'fidd' .*did you mean fid",
        ),
        (("{mask_ratio: 0.25}", "{mask_ratio: 0.99}"), r"x.yaml:7: rows.2: row 'theirs' is quoted, but"),
    ],
)
def test_published_values_have_their_line(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    experiment = load(written(tmp_path, HEAD + (ROWS + TABLE).replace(*change)))
    with pytest.raises(SpecError, match=says):
        published.check(experiment)


def test_a_profile_of_other_runs_than_commands_alone(tmp_path: Path) -> None:
    path = written(tmp_path, STAGE.format(w=1, more="results: [acc]"))
    assert load(path).profile == "none"
    with pytest.raises(
        SpecError, match=f"--profile: {PROFILE} gives data, .* tokenizer to runs that have no such sections"
    ):
        load(path, profile=str(PROFILE))
    (tmp_path / "own.yaml").write_text("description: mine\nbase: {fit: {w: 3}}\n")
    assert value_at(load(path, profile=str(tmp_path / "own.yaml")).variants[0].runs[0], "fit.w") == 3


@pytest.mark.parametrize(
    "command, says", [("   ", "command: is empty"), ("python fit.py {w:.2f}", r"\{w:.2f\} is more than")]
)
def test_commands_that_are_none(command: str, says: str, tmp_path: Path) -> None:
    text = STAGE.format(w=1, more="results: [acc]").replace('"python fit.py --w {w}"', f"'{command}'")
    with pytest.raises(SpecError, match=says):
        load(written(tmp_path, text))


@pytest.mark.parametrize(
    "options, says",
    [
        ("{array: 1-3}", "options.array: is set by star itself"),
        ("{job_name: x}", "options.job_name: is set by star itself"),
        ("{time: 5}", "options.time: is set by resources.STAGE.minutes"),
        ("{partition: b}", "options.partition: is set by resources.slurm.partition"),
        ("{--reservation: night}", "options.--reservation: is no name of an option"),
        ("{'bad opt': x}", "options.bad opt: is no name of an option"),
        ("{exclusive: false}", "options.exclusive"),
    ],
)
def test_options_of_slurm_that_are_set_elsewhere(options: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        load(TINY, sets=[f"resources.slurm.options={options}"])
    spec = (
        load(TINY, sets=["resources.slurm.options={reservation: night, exclusive: true, nice: 100}"])
        .variants[0]
        .runs[0]
    )
    assert spec.resources.slurm.options == {"reservation": "night", "exclusive": True, "nice": 100}


def test_one_number_written_twice_is_one_value(tmp_path: Path) -> None:
    text = "axes: {optim.lr: [1, 1.0]}\n" + TABLE
    with pytest.raises(SpecError, match=r"x.yaml:4: axes.optim.lr: the value 1.0 stands twice"):
        load(written(tmp_path, HEAD + text))


def test_signs_inside_of_words_are_text_and_records_are_read(tmp_path: Path) -> None:
    text = STAGE.format(w=1, more="results: [acc]")
    inside = "python fit.py --w {w} --url http://h/x?a=1&b=2 --cost $5 ~trainer.logger"
    load(written(tmp_path, text.replace("python fit.py --w {w}", inside)))
    old = load(written(tmp_path, text)).variants[0].runs[0].model_dump(mode="json")
    old["stages"]["fit"]["command"] = "python fit.py --w {w} >log.txt"  # an older version let it through
    old["resources"]["slurm"] = {"options": {"time": "5"}}
    assert parse_run(old).resources.slurm.options == {"time": "5"}

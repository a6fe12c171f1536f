"""`plugins: [objectives]` in an experiment: keys, costs and refusals where it is read, and a run of every term."""

from __future__ import annotations

from pathlib import Path

import pytest

from star.errors import SpecError, StarError
from star.metric_log import read_metrics
from star.pipeline.train import train_flops
from star.spec.keys import Keys, stage_content, stage_keys
from star.spec.load import load
from tests.helpers import ROOT, star_exp

PLAIN = "selfguided: {mim_weight: 0, contrastive_weight: 0, num_views: 1}"
YAML = f"""experiment: published
title: Objectives side by side
profile: tiny
plugins: [objectives]
targets: [train]
base: {{data: {{image_size: 32, train_images: 80}}}}
rows:
  - {{label: AR, spec: {{{PLAIN}}}}}
  - {{label: noise, spec: {{{PLAIN}, terms: {{noise: {{weight: 1}}}}}}}}
  - {{label: reAR, spec: {{{PLAIN}, terms: {{noise: {{weight: 1}}, codebook: {{weight: 1}}}}}}}}
  - {{label: Mirai-E, spec: {{{PLAIN}, terms: {{foresight: {{weight: 2, layer: 1}}}}}}}}
  - {{label: IAR, spec: {{{PLAIN}, terms: {{cluster: {{weight: 1, size: 4}}}}}}}}
  - {{label: MTAR, spec: {{{PLAIN}, terms: {{mtp: {{weight: 0.1}}, tcr: {{weight: 0.2, tokens: 64}}}}}}}}
  - {{label: REPA, spec: {{{PLAIN}, terms: {{align: {{weight: 0.5, layer: ~1/3}}}}}}}}
  - {{label: Mirai-I, spec: {{{PLAIN}, terms: {{align: {{weight: 2, layer: ~2/3, pairing: consuming}}}}}}}}
  - {{label: RAR, spec: {{{PLAIN}, terms: {{order: {{weight: 1}}}}}}}}
  - {{label: NPP, spec: {{{PLAIN}, terms: {{coarse: {{weight: 1}}}}}}}}
  - {{label: MuToR, spec: {{{PLAIN}, terms: {{registers: {{weight: 1, window: 2}}}}}}}}
  - {{label: ST-AR}}
  - {{label: ST-AR + order, spec: {{terms: {{order: {{weight: 1}}}}}}}}
  - {{label: ST-AR + foresight, spec: {{terms: {{foresight: {{weight: 2, layer: 1}}}}}}}}
  - {{label: averaged, spec: {{{PLAIN}, terms: {{ema: {{weight: 1}}}}, generate: {{weights: teacher}}}}}}
table:
  caption: Objectives
  columns:
    - {{title: NLL, metric: train/val_nll}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "profiles").symlink_to(ROOT / "tests" / "profiles")
    (tmp_path / "published.yaml").write_text(YAML)
    return tmp_path / "published.yaml"


def test_a_row_is_the_run_that_it_is_elsewhere_unless_it_has_a_term(file: Path) -> None:
    with_plugin = {variant.label: variant.runs[0] for variant in load(file).variants}
    plain = file.with_name("plain.yaml")
    alone = "\n".join(line for line in YAML.splitlines() if "plugins:" not in line and "terms:" not in line)
    plain.write_text(alone)
    others = {variant.label: variant.runs[0] for variant in load(plain).variants}
    assert set(others) == {"AR", "ST-AR"}
    assert all(stage_keys(with_plugin[label], {}) == stage_keys(run, {}) for label, run in others.items())
    keys = {label: stage_keys(run, {})["train"] for label, run in with_plugin.items()}
    assert len(set(keys.values())) == len(keys)


def test_what_a_term_reads_is_in_the_key_of_those_runs_alone(file: Path) -> None:
    reads = {}
    for variant in load(file).variants:
        run = variant.runs[0]
        stages = list(run.pipeline)
        assert ("features" in stages) == (variant.label in ("REPA", "Mirai-I"))
        assert stages.index("tokenizer") < stages.index("encode") < stages.index("train")
        keys = stage_keys(run, {})
        inputs = {name: keys[name] for name in run.pipeline["train"].inputs_of(run)}
        content = stage_content(run.pipeline["train"], run, {}, inputs)
        reads[variant.label] = set(content["inputs"])
        told = content["spec"].get("terms", {})
        assert all(one["plugin"] == "star_objectives 1" for one in told.values()), (
            "its own number, not the files' content"
        )
        assert ("ema" in str(told)) == (variant.label in ("Mirai-E", "averaged", "RAR")), (
            "ST-AR's own section has the rate"
        )
    more = {"reAR": {"tokenizer"}, "IAR": {"tokenizer"}, "REPA": {"features"}, "Mirai-I": {"features"}}
    assert reads == {label: {"encode"} | more.get(label, set()) for label in reads}


def test_costs_are_the_arithmetic_of_what_each_term_runs(file: Path) -> None:
    """LlamaGen-B at 256 codes; in units of the plain step, which is 153.4 GFLOP an image."""
    at_b = """base:
  model: {n_layer: 12, n_head: 12, dim: 768, ffn_multiple_of: 256}
  data: {image_size: 256}
  tokenizer: {channel_mult: [1, 1, 1, 1, 1], codebook_size: 16384, codebook_dim: 8}
  selfguided: {projector_hidden: 2048, num_positions: 4}
  features: {encoder: dinov2-b, weights: dinov2_vitb14_pretrain.pth}
"""
    file.write_text(
        YAML.replace("base: {data: {image_size: 32, train_images: 80}}\n", at_b)
        .replace("layer: 1}", "layer: 2/3}")
        .replace("size: 4", "size: 128")
    )
    flops = {variant.label: train_flops(variant.runs[0]) for variant in load(file).variants}
    plain = flops["AR"]
    foresight = 1 + 0.194 + 0.0735 * (256 + 240 + 240) / 256  # the teacher to block 8; pairs that stay in the image
    assert plain / (30 * 8) == pytest.approx(153.4e9, rel=0.01)
    read_ahead = {"REPA": 1.0735, "Mirai-I": 1.0732, "reAR": 1.032, "Mirai-E": foresight, "MTAR": 1.256, "MuToR": 1.313}
    for label, expected in ({"noise": 1.0, "IAR": 1.126, "RAR": 1.0, "NPP": 0.623} | read_ahead).items():
        assert flops[label] / plain == pytest.approx(expected, rel=0.005), label
    assert flops["averaged"] == plain, "nobody runs the average (test_published_terms.py)"
    assert flops["ST-AR + order"] == flops["ST-AR"], "which reads the teacher's last states anyway"
    assert flops["ST-AR + foresight"] / plain == pytest.approx(2.583 + 2 * (foresight - 1.194), rel=0.005), (
        "one teacher for both"
    )


@pytest.mark.parametrize(
    "terms, told",
    [
        ("cluster: {weight: 1, size: 5}", "terms.cluster.size: 5 is no divisor of the codebook's 32 codes"),
        ("foresight: {weight: 1, offsets: [left]}", "terms.foresight.offsets"),
        (
            "foresight: {weight: 1, layer: 2/3}",
            "terms.foresight.layer: '2/3' hits no layer of a model with 2; legal: 1 to 2 or the fractions 1/2, or the nearest: ~2/3",
        ),
        (
            "codebook: {weight: 1, encode_layer: null, decode_layer: null}",
            "terms.codebook.encode_layer: is null as decode_layer is",
        ),
        ("register: {weight: 1}", "terms.register"),
        (
            "registers: {weight: 1, window: 6}",
            "terms.registers.window: 6 leads 45 cells on, which leaves 19 of 64 places for 20",
        ),
        ("coarse: {weight: 1, patch: 3}", "terms.coarse.patch: 3 does not cut a grid of 8 x 8 codes"),
        (
            "order: {weight: 1}, coarse: {weight: 1}",
            "coarse changes the sequence of what the student sees, and order goes by",
        ),
        (
            "order: {weight: 1}, foresight: {weight: 1, layer: 1}",
            "order changes the order of what the student sees, and foresight goes",
        ),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_read(file: Path, terms: str, told: str) -> None:
    file.write_text(YAML.replace("cluster: {weight: 1, size: 4}", terms))
    with pytest.raises(SpecError) as refused:
        load(file)
    assert told in str(refused.value) and "published.yaml:12" in str(refused.value), refused.value


def test_every_term_trains(file: Path, home: Path) -> None:
    done = star_exp("run", file, "--plain", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    seen: dict[str, list[float]] = {}
    for job in (home / "jobs").glob("train-*"):
        for _, line in read_metrics(job / "metrics.jsonl"):
            for name, value in line["metrics"].items():
                seen.setdefault(name, []).append(value)
    losses = {
        "align_loss",
        "codebook_encode_loss",
        "codebook_decode_loss",
        "foresight_loss",
        "cluster_loss",
        "mtp_loss",
        "tcr_loss",
        "registers_loss",
    }
    assert losses <= set(seen)
    assert all(value > 0 for name in losses for value in seen[name])
    assert max(seen["cluster_loss"]) <= 2.2, "there are eight clusters"


def test_an_encoder_that_is_no_package_wants_its_file(file: Path) -> None:
    base = "base: {features: {encoder: dinov2-b}, data"
    file.write_text(YAML.replace("base: {data", base))
    with pytest.raises(
        SpecError, match="features.weights: dinov2-b is no package; give the path of its published file"
    ):
        load(file)
    file.write_text("\n".join(line for line in YAML.replace("base: {data", base).splitlines() if "align" not in line))
    assert len(load(file).variants) == 13, "rows that read no maps need none"


def test_maps_of_another_grid_are_other_maps(file: Path) -> None:
    """Their number, and the side to which images are resized, follow from the grid."""
    file.write_text(YAML.replace("rows:\n", "axes: {tokenizer.channel_mult: [[1, 1, 1], [1, 1]]}\nrows:\n"))
    runs = [variant.runs[0] for variant in load(file).variants if "REPA" in variant.label]
    assert [run.grid for run in runs] == [8, 16]
    assert len({stage_keys(run, {})["features"] for run in runs}) == 2
    assert (
        len({Keys().of(run, {})["features"] for run in runs} | {stage_keys(run, {})["features"] for run in runs}) == 2
    )


def test_what_only_switches_a_term_on_is_one_key(file: Path) -> None:
    keys = {}
    for weight in ("1", "0.5"):
        file.write_text(YAML.replace("noise: {weight: 1}}", f"noise: {{weight: {weight}}}}}"))
        keys[weight] = {variant.label: stage_keys(variant.runs[0], {}) for variant in load(file).variants}
    assert keys["1"] == keys["0.5"]


@pytest.mark.parametrize(
    "resources, told",
    [
        ("{micro_batch_size: 4}", "here are 2 passes (resources.micro_batch_size); give among: image, or one pass"),
        ("{train: {processes: 2}}", "here are 2 processes (resources.train); give among: image, or one pass"),
    ],
)
def test_what_compares_the_whole_batch_wants_it_in_one_pass(file: Path, resources: str, told: str) -> None:
    base = f"base: {{resources: {resources}, data"
    file.write_text(YAML.replace("base: {data", base))
    with pytest.raises(SpecError) as refused:
        load(file)
    assert told in str(refused.value) and "terms.tcr: it compares all images of a step" in str(refused.value)
    file.write_text(YAML.replace("base: {data", base).replace("tokens: 64", "tokens: 64, among: image"))
    load(file)


def test_a_run_with_an_averaged_teacher_keeps_its_weights_twice(file: Path) -> None:
    runs = {variant.label: variant.runs[0] for variant in load(file).variants}
    disk = {label: run.pipeline["train"].disk_of(run) for label, run in runs.items()}
    assert disk["Mirai-E"] == disk["averaged"] == disk["ST-AR"] == 2 * disk["AR"]


@pytest.mark.parametrize(
    "body, told",
    [
        ("def flops(self):\n        return None", "its flops() gave None; give a number"),
        ("def flops(self):\n        return float('nan')", "its flops() gave nan; give a number"),
        ("def flops(self):\n        return self.width", "AttributeError: 'Hum' object has no attribute 'width'"),
        ("changes = frozenset({'sequence'})", "changes the order or the sequence, and has no arrange"),
        ("agrees_with = 'order'", "agrees_with: 'order' is a text; give a tuple: ('order',)"),
        ("agrees_with = frozenset({'ordre'})", "agrees_with: 'ordre' is nothing to agree with; give"),
        ("after = ('generate',)", "term hum: after: 'generate' comes after train, in which the term is"),
        ("after = ('maps',)", "term hum: after: 'maps' is no stage; there are"),
    ],
)
def test_what_a_term_says_wrong_is_told_where_it_is_planned(file: Path, body: str, told: str) -> None:
    file.with_name("hum.py").write_text(
        "from star.objectives import Term, TermConfig\n\n\nclass HumConfig(TermConfig):\n    pass\n\n\n"
        f"class Hum(Term):\n    name = 'hum'\n    config = HumConfig\n    {body}\n"
    )
    file.write_text(
        YAML.replace("[objectives]", "[objectives, hum.py]").replace("noise: {weight: 1}}", "hum: {weight: 1}}")
    )
    with pytest.raises(StarError) as refused:
        load(file)
    assert told in str(refused.value), refused.value

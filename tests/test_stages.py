"""The light list of stages and their code agree; the estimates agree with what the modules really do."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pkgutil import resolve_name

import grimp
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from star.evaluate.inception import InceptionV3
from star.model.gpt import GPT
from star.objectives.batch import ClassDropout, draw_batch
from star.objectives.objective import Objective
from star.objectives.st_ar import st_ar
from star.pipeline import STAGES
from star.pipeline.config import RunSpec
from star.pipeline.config.model import ModelSpec
from star.pipeline.config.tokenizer import TokenizerSpec
from star.pipeline.model import forward_flops, parameters
from star.pipeline.score import INCEPTION
from star.pipeline.tokenizer import vq_flops
from star.pipeline.train import train_flops
from star.scheduler.estimate import gpu_hours
from star.spec.base import Section
from star.spec.builtin import needed
from star.spec.load import load
from star.tokenizer.vq import VQModel
from tests.helpers import ROOT, tiny


def test_all_that_a_declaration_names_is_there() -> None:
    for stage in STAGES.values():
        assert callable(resolve_name(str(stage.run)))
        assert stage.check is None or callable(resolve_name(stage.check))
        assert (stage.look is None) == (stage.source is None)
        assert stage.look is None or callable(resolve_name(stage.look))
        assert all(issubclass(resolve_name(kind), Section) for kind in stage.config.values())
        assert set(stage.drawn.values()) <= set(stage.files)
        assert set(stage.charts) <= set(stage.curves)
        assert set(stage.highlights) <= {name.rpartition("/")[2] for name in stage.results}
    fields = (path.split(".") for stage in STAGES.values() for path in stage.given)
    assert all(field in RunSpec.model_fields[section].annotation.model_fields for section, field in fields)
    assert set(tiny().outside_paths) == {stage.source for stage in STAGES.values() if stage.source}
    sections = {name for stage in STAGES.values() for name in stage.config}
    assert {*sections, "resources", "seed"} == set(RunSpec.model_fields)
    assert {name for stage in STAGES.values() for name in stage.sections} == {*sections, "seed"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph("star", "star_board", "star_services", exclude_type_checking_imports=True)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    place = {module: i for i, module in enumerate(TopologicalSorter(imports).static_order())}
    assert "star.spec.graph" in imports["star.spec.keys"] and len(imports["star.cli.main"]) > 3
    assert all(place[other] < place[module] for module in imports for other in imports[module])


PLATFORM = (
    "cli",
    "report",
    "search",
    "scheduler",
    "ledger",
    "tracking",
    "spec",
    "command.py",
    "rundir.py",
    "worker.py",
)
OTHER_WORDS = {
    "star/cli/images.py": "reference",  # what images are compared with
    "star/cli/evaluate.py": "reference",
    "star/cli/groups.py": "reference",
    "star/spec/extends.py": "reference",  # the former name of a field of an experiment
    "star/spec/renames.py": "reference",
    "star/spec/plugins.py": "encode",  # a method of a plugin's tokenizer
    "star/spec/reporting.py": "attention",  # a kind of figure
    "star/report/figures/arrays.py": "attention",
    "dashboards/star_board/views/runs.py": "attention",
    "dashboards/star_board/views/jobs.py": "attention",
}


def test_the_platform_names_no_stage() -> None:
    """No text in its code is a stage's name, alone or before a `/`, but where it is another word."""
    named = []
    folders = [*(ROOT / "star" / part for part in PLATFORM), ROOT / "dashboards" / "star_board"]
    for file in [file for folder in folders for file in ([folder] if folder.is_file() else folder.rglob("*.py"))]:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                head, _, rest = node.value.partition("/")
                place = str(file.relative_to(ROOT))
                if head in STAGES and " " not in rest and OTHER_WORDS.get(place) != node.value:
                    named.append(f"{place}:{node.lineno}: {node.value}")
    assert named == []


def test_inputs_come_first() -> None:
    order = needed(("score", "floor", "probe", "attention", "invariance"))
    assert set(order) == set(STAGES) - {"features"}, "which only a plugin's term reads"
    assert all(order.index(before) < order.index(stage) for stage in order for before in STAGES[stage].inputs)


def test_parameters_are_counted_right() -> None:
    spec = tiny()
    model = GPT(spec.model, spec.tokenizer.codebook_size, spec.data.num_classes, spec.grid)
    assert parameters(spec) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("dim, n_layer", [(16, 2), (64, 4)])
def test_transformer_operations_are_counted_right(dim: int, n_layer: int) -> None:
    spec = tiny(model__dim=dim, model__n_layer=n_layer)
    model = GPT(spec.model, spec.tokenizer.codebook_size, spec.data.num_classes, spec.grid).eval()
    codes, label = torch.zeros(1, spec.sequence_length, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    # on tensors without content, so in PyTorch's own products: the counter does not know oneDNN's
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.to("meta")(codes.to("meta"), label.to("meta"))
    # the counter counts attention over all T x T pairs, or not at all; causal attention needs half of them
    attention = 4 * dim * spec.sequence_length**2 * n_layer
    counted = counter.get_total_flops()
    assert any(
        forward_flops(spec) == pytest.approx(c, rel=0.01) for c in (counted - attention / 2, counted + attention / 2)
    )


@pytest.mark.parametrize("tokenizer, size", [(TokenizerSpec(), 64), (tiny().tokenizer, 28)])
def test_tokenizer_operations_are_counted_right(tokenizer: TokenizerSpec, size: int) -> None:
    model = VQModel(tokenizer, 3).eval()
    encode, decode = vq_flops(tokenizer, size, 3)
    # the counter does not know a CPU's fused attention
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            codes = model.encode(torch.zeros(1, 3, size, size))
        assert counter.get_total_flops() == pytest.approx(encode, rel=0.03)
        with FlopCounterMode(display=False) as counter:
            model.decode(codes)
        assert counter.get_total_flops() == pytest.approx(decode, rel=0.03)


@pytest.mark.parametrize(
    "name", ["table1", "table3", "table4", "table5", "table6", "figure1", "figure4", "star_vs_baseline"]
)
def test_one_gpu_has_all_tables_of_the_paper(name: str) -> None:
    """With a codebook, a grid and a model between those of `fashion` and `imagenet256`, and in tens of minutes each."""
    small, middle, large = (
        load(ROOT / "experiments" / f"{name}.yaml", profile, seeds=[0])
        for profile in ("fashion", "fashion-gpu", "imagenet256")
    )
    for one, two, three in zip(small.variants, middle.variants, large.variants, strict=True):
        assert one.label == two.label == three.label
        specs = [variant.runs[0] for variant in (one, two, three)]
        assert specs[0].sequence_length < specs[1].sequence_length < specs[2].sequence_length
        assert parameters(specs[0]) < parameters(specs[1]) < parameters(specs[2])
        assert specs[1].data.train_images == 60_000 and specs[1].optim.precision == "bf16"
    longest = max(train_flops(variant.runs[0]) for variant in middle.variants if "300" not in variant.label)
    assert longest < 1e18 / 3  # an hour at a tenth of an H100's rate


def table1() -> list[RunSpec]:
    """The rows of table 1 at the paper's scale that differ in what a step costs."""
    variants = load(ROOT / "experiments" / "table1.yaml", "imagenet256").variants
    return [variant.runs[0] for variant in variants if "50 epochs" in variant.label]


def ablated(**changes: object) -> RunSpec:
    """LlamaGen-B with a part of ST-AR off."""
    values = table1()[1].model_dump()
    values["selfguided"] |= changes
    return RunSpec.model_validate(values)


ABLATIONS = [
    ablated(mim_weight=0.0),
    ablated(contrastive_weight=0.0),
    ablated(inter_step=False),
    ablated(student_views=1),
    ablated(contrastive_layer="1/4", mim_weight=0.0),
]


@pytest.mark.parametrize("spec", [*table1(), *ABLATIONS])
def test_training_operations_are_those_of_the_real_modules(spec: RunSpec) -> None:
    """Teacher, student, projector, losses and the backward pass of one step, counted on tensors without content."""
    images, length = 4, spec.sequence_length
    with torch.device("meta"):
        student = GPT(spec.model, spec.tokenizer.codebook_size, spec.data.num_classes, spec.grid)
        objective = Objective(student, st_ar(spec.selfguided, spec.contrastive_layer))
    assert parameters(spec) == sum(parameter.numel() for parameter in student.parameters())
    codes = torch.zeros(images, spec.selfguided.num_views, length, dtype=torch.long)
    views, generator = spec.selfguided.student_views, torch.Generator()
    batch = draw_batch(objective.terms, codes, codes[:, 0, 0], views, ClassDropout(1000), generator, dropout=True).to(
        torch.device("meta")
    )
    with FlopCounterMode(display=False) as counter:
        objective.losses(batch, objective.targets(batch))["loss"].backward()
    counts = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    attention = counts["aten.bmm"]  # over all T x T pairs; causal attention needs T (T + 1) / 2 of them
    counted = counter.get_total_flops() - attention + attention * (length + 1) / (2 * length)
    per_step = train_flops(spec) / spec.total_steps / spec.optim.batch_size * images
    assert per_step == pytest.approx(counted, rel=2e-4)


def test_inceptions_operations_are_counted_right() -> None:
    with torch.device("meta"):
        network = InceptionV3().eval()
    with FlopCounterMode(display=False) as counter:
        network.layers(torch.zeros(1, 3, 299, 299, device="meta"))
    assert INCEPTION == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_gpu_hours_are_operations_over_a_stated_speed() -> None:
    baseline = table1()[0]
    assert (baseline.resources.gpu, baseline.resources.utilisation) == ("H200", 0.4)
    hours = gpu_hours(baseline, STAGES["train"].flops_of(baseline))
    assert hours == pytest.approx(train_flops(baseline) / (0.4 * 989e12) / 3600)
    assert hours == pytest.approx(6.9, abs=0.05)


def test_llamagen_b_costs_what_is_known() -> None:
    """Per 256-code sequence: 51.1 GFLOP forward, 153.4 to train; the teacher and two views make 2.58 times that."""
    spec = tiny(
        data__image_size=256, tokenizer__channel_mult=[1, 1, 2, 2, 4], tokenizer__codebook_size=16384, optim__batch_size=2, optim__steps=1,
    )  # fmt: skip
    spec = spec.model_copy(update={"model": ModelSpec()})
    assert 3 * forward_flops(spec) == pytest.approx(153.4e9, rel=0.002)
    assert train_flops(spec) / (2 * 3 * forward_flops(spec)) == pytest.approx(2.583, abs=0.01)
    encode, decode = vq_flops(TokenizerSpec(), 256, 3)
    assert (encode, decode) == (pytest.approx(138.4e9, rel=0.03), pytest.approx(252.7e9, rel=0.03))


def test_twenty_views_cost_twice_of_ten() -> None:
    ten, twenty, imported = tiny(), tiny(data__extra_crop_range=1.05), tiny(data__codes="/codes")
    test = ten.data.test_images
    encode, _ = vq_flops(ten.tokenizer, ten.data.image_size, 1)
    stage = STAGES["encode"]
    for cost, unit in ((stage.flops_of, encode), (stage.disk_of, 2.0 * ten.sequence_length)):
        assert cost(twenty) - unit * test == pytest.approx(2 * (cost(ten) - unit * test))
    assert stage.flops_of(imported) == pytest.approx(encode * test)


def test_a_reference_takes_what_its_features_take() -> None:
    """Two square matrices of float64, and for each image of the manifold its features in float32 and its pixels."""
    run = tiny()
    for extractor, width in (("efficientnet-lite0", 1280), ("inception", 2048)):
        score = run.score.model_copy(update={"extractor": extractor})
        kept = min(score.num_reference, score.manifold_images)
        pixels = run.data.image_size**2 * run.data.channels
        found = STAGES["reference"].disk_of(run.model_copy(update={"score": score}))
        assert found == 2 * 8 * width**2 + kept * (4 * width + pixels)

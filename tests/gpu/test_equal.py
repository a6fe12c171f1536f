"""What a GPU computes is what the CPU computes: the networks, the losses and their gradients, training, measuring."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from star.checkpoint import Checkpoints
from star.data.codes import CodeStore
from star.errors import Stopped
from star.evaluate.features import load_extractor
from star.evaluate.linear_probe import train_probe
from star.evaluate.precise import full_float32
from star.evaluate.precision_recall import manifold
from star.evaluate.statistics import METRICS, Reference, Statistics, compare
from star.model.gpt import GPT
from star.model.sample import Sampler, in_bfloat16, noise_for, sample
from star.objectives.linear_cross_entropy import linear_cross_entropy
from star.pipeline.config.generate import GenerateSpec
from star.pipeline.config.model import ModelSpec
from star.pipeline.config.probe import ProbeSpec
from star.tokenizer.train import train_vq
from star.train.trainer import Trainer
from tests.helpers import ROOT, tiny, write_store
from tests.numerics.on_ranks import METHODS, objective_and_batch
from tests.numerics.test_goldens import GOLDEN, drawn_weights, vq16

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_transformer_gives_llamagens_logits_and_samples() -> None:
    golden = dict(np.load(GOLDEN / "gpt_tiny_golden.npz"))
    model = GPT(ModelSpec(dim=64, n_layer=3, n_head=4, ffn_multiple_of=32), vocab_size=128, num_classes=10, grid=4)
    model.load_state_dict(drawn_weights({key: tuple(value.shape) for key, value in model.state_dict().items()}, 0.05))
    model = model.eval().to(GPU)
    codes, labels = (torch.from_numpy(golden[name]).long().to(GPU) for name in ("codes", "labels"))
    with torch.no_grad():
        torch.testing.assert_close(model(codes, labels).cpu(), torch.from_numpy(golden["logits"]), atol=1e-4, rtol=0)
    for scale in (1, 2):
        greedy = GenerateSpec(cfg_scale=float(scale), top_k=1)
        noise = torch.zeros(3, 16, dtype=torch.float64, device=GPU)
        assert (
            sample(model, torch.tensor([0, 3, 9], device=GPU), noise, greedy).tolist()
            == golden[f"greedy_cfg_{scale}"].tolist()
        )


def test_the_tokenizer_gives_llamagens_codes_and_images() -> None:
    golden = np.load(GOLDEN / "vq16_golden.npz")
    model, images = (part.to(GPU) for part in vq16())
    with torch.no_grad():
        codes = model.encode(images)  # as the stage encode computes it
        decoded = model.decode(codes).cpu()
    assert codes.tolist() == golden["codes"].reshape(2, -1).tolist()
    torch.testing.assert_close(decoded[:, :, ::8, ::8], torch.from_numpy(golden["reconstruction"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_losses_and_gradients_in_double_precision(method: str) -> None:
    found = []
    for device in (CPU, GPU):
        objective, batch = objective_and_batch(method)
        objective.to(device)
        batch = batch.to(device)
        losses = objective.losses(batch, objective.targets(batch))
        losses["loss"].backward()
        gradients = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
        found.append({**losses, **gradients})
    assert len(found[0]) >= 20 and set(found[0]) == set(found[1])
    for name, value in found[0].items():
        torch.testing.assert_close(
            found[1][name].cpu(), value, atol=1e-10, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[CodeStore, CodeStore]:
    """Codes with something to learn: each image repeats a short word of its class, with errors."""
    folder, rng = tmp_path_factory.mktemp("codes"), np.random.default_rng(0)
    words = rng.integers(0, 32, (10, 7))
    for split, count, views in (("train", 400, 10), ("test", 100, 1)):
        labels = rng.integers(0, 10, count)
        codes = np.tile(words[labels][:, None], (1, views, 7))
        codes = np.where(rng.random(codes.shape) < 0.2, rng.integers(0, 32, codes.shape), codes)
        write_store(folder / split, codes, labels)
    return CodeStore(folder / "train"), CodeStore(folder / "test")


def trained(
    stores: tuple[CodeStore, CodeStore], folder: Path, device: torch.device, stop_at: int = -1, **changes: Any
) -> tuple[Trainer, list[float], dict[str, float]]:
    """A trainer, the loss of each of its steps, and its result (empty when it stopped)."""
    spec = tiny(
        **{
            "optim__steps": 50,
            "optim__batch_size": 32,
            "optim__warmup_steps": 10,
            "resources__checkpoint_every": 7,
            "model__dim": 32,
        }
        | changes
    )
    losses: list[float] = []
    made = Trainer(
        spec,
        *stores,
        folder,
        device,
        lambda step, metrics: None,
        lambda done, total: None,
        lambda: len(losses) == stop_at,
    )
    plain = made.train_step

    def watched() -> dict[str, torch.Tensor]:
        metrics = plain()
        losses.append(metrics["loss"].item())
        return metrics

    made.train_step = watched  # type: ignore[method-assign]
    try:
        return made, losses, made.train()
    except Stopped:
        return made, losses, {}


@pytest.mark.parametrize(
    ("precision", "compiled", "tolerance"), [("fp32", False, 1e-4), ("bf16", False, 0.02), ("bf16", True, 0.02)]
)
def test_fifty_steps(
    stores: tuple[CodeStore, CodeStore], tmp_path: Path, precision: str, compiled: bool, tolerance: float
) -> None:
    _, expected, ends = trained(stores, tmp_path / "cpu", CPU, optim__precision="fp32")
    _, found, end = trained(stores, tmp_path / "gpu", GPU, optim__precision=precision, resources__compile=compiled)
    assert len(found) == 50 and expected[-1] < 0.8 * expected[0]
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    assert end["val_nll"] == pytest.approx(ends["val_nll"], rel=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_training_goes_on_bit_for_bit(
    stores: tuple[CodeStore, CodeStore], tmp_path: Path, precision: str
) -> None:
    straight, whole, result = trained(stores, tmp_path / "a", GPU, optim__precision=precision)
    _, first, nothing = trained(stores, tmp_path / "b", GPU, stop_at=23, optim__precision=precision)
    resumed, rest, again = trained(stores, tmp_path / "b", GPU, optim__precision=precision)
    assert nothing == {} and first + rest == whole and again == result
    for a, b in zip(straight.objective.state_dict().values(), resumed.objective.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_tokenizer_is_trained(tmp_path: Path) -> None:
    """The same losses on both, restarts of unused codes included, and a stopped one goes on bit for bit."""
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 256, (64, 4, 4, 1)).repeat(4, 1).repeat(4, 2)
    images = np.clip(shades + rng.normal(0, 5, shades.shape), 0, 255).astype(np.uint8)
    spec = tiny(tokenizer__steps=30, tokenizer__restart_every=10).tokenizer

    def losses(device: torch.device, folder: Path, stop_at: int = -1) -> list[float]:
        found: list[float] = []
        steps: list[int] = []

        def stop() -> bool:
            steps.append(1)
            return len(steps) == stop_at

        def record(step: int, values: Mapping[str, float]) -> None:
            found.append(values["loss"])

        checkpoints = Checkpoints(folder, 2)
        arguments = (spec, 1, lambda step: images[step % 4 :: 4], device, record, lambda *_: None, checkpoints, 7, stop)
        try:
            train_vq(*arguments)
        except Stopped:
            pass
        return found

    expected, found = losses(CPU, tmp_path / "cpu"), losses(GPU, tmp_path / "gpu")
    assert len(found) == 3 and found[-1] < 0.9 * found[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert losses(GPU, tmp_path / "stopped", stop_at=13) + losses(GPU, tmp_path / "stopped") == found


def test_no_step_makes_the_cpu_wait(stores: tuple[CodeStore, CodeStore], tmp_path: Path) -> None:
    """Between records the GPU is never waited for: the next step is prepared while it computes."""
    spec = tiny(optim__steps=50, optim__batch_size=32, optim__precision="bf16")
    made = Trainer(spec, *stores, tmp_path, GPU, lambda *_: None, lambda *_: None, lambda: False)
    for _ in range(3):  # kernels are loaded, buffers made
        made.train_step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            made.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_that_runs_out_halves_the_micro_batch_and_not_the_loss(
    stores: tuple[CodeStore, CodeStore], tmp_path: Path
) -> None:
    sizes = {"optim__steps": 3, "optim__batch_size": 256, "model__dim": 256, "model__n_layer": 6, "model__n_head": 4}
    free, expected, _ = trained(stores, tmp_path / "free", GPU, **sizes)
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    del free
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.5 * peak / total)
    try:
        tight, found, _ = trained(stores, tmp_path / "tight", GPU, **sizes)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert tight.micro.size < 256
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_samples_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    model = GPT(
        ModelSpec(dim=64, n_layer=3, n_head=4, ffn_multiple_of=32, init_std=0.3), vocab_size=128, num_classes=10, grid=4
    )
    torch.nn.init.normal_(model.output.weight, std=0.3)
    labels, noise, spec = torch.arange(10), noise_for(0, 0, 10, 16), GenerateSpec(cfg_scale=1.5)
    expected = sample(model.eval(), labels, noise, spec)
    model.to(GPU)
    whole = sample(model, labels.to(GPU), noise.to(GPU), spec).cpu()
    halves = [sample(model, labels[i : i + 5].to(GPU), noise[i : i + 5].to(GPU), spec).cpu() for i in (0, 5)]
    assert torch.equal(whole, torch.cat(halves))
    assert (whole == expected).float().mean() > 0.95  # a code at the edge of two may fall to the other side
    coarse = sample(in_bfloat16(model), labels.to(GPU), noise.to(GPU), spec)
    assert coarse.shape == whole.shape and (coarse.cpu() == whole).float().mean() > 0.3


def test_sampling_as_one_graph_gives_the_same_codes() -> None:
    """Whatever was sampled before, with fewer rows, and (but for rounding) compiled."""
    torch.manual_seed(0)
    shape = ModelSpec(dim=64, n_layer=3, n_head=4, ffn_multiple_of=32, init_std=0.3)
    model = GPT(shape, vocab_size=128, num_classes=10, grid=4)
    torch.nn.init.normal_(model.output.weight, std=0.3)
    model = model.to(GPU).eval()
    labels, noise = torch.arange(10, device=GPU), noise_for(0, 0, 20, 16).to(GPU)
    for spec in (GenerateSpec(cfg_scale=1.5, cfg_until=7, top_k=100), GenerateSpec(top_p=0.9, temperature=0.8)):
        expected, other = sample(model, labels, noise[:10], spec), sample(model, labels, noise[10:], spec)
        sampler = Sampler(model, 10, spec)
        first, second = sampler(labels, noise[10:]), sampler(labels, noise[:10])
        assert torch.equal(second, expected) and torch.equal(first, other) and not torch.equal(expected, other)
        assert torch.equal(sampler(labels[:3], noise[:3]), expected[:3])
        compiled = Sampler(model, 10, spec, compiled=True)(labels, noise[:10])
        assert (compiled == expected).float().mean() > 0.95


def test_cross_entropy_without_the_logits() -> None:
    """Over 16,384 codes, in several blocks and in bfloat16: near the plain one in float64, in a fraction of its memory."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(20_000, 64, device=GPU), 0.2 * torch.randn(16_384, 64, device=GPU)
    codes = torch.randint(16_384, (20_000,), device=GPU)
    found = []
    for kind in (torch.float64, torch.float32):
        x, w = (part.to(kind).requires_grad_() for part in (hidden, weight))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.max_memory_allocated()
        if kind == torch.float64:
            loss = torch.nn.functional.cross_entropy(x @ w.T, codes, reduction="sum")
        else:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = linear_cross_entropy(x, w, codes)
        loss.backward()
        used = torch.cuda.max_memory_allocated() - before
        assert x.grad is not None and w.grad is not None
        found.append((loss.detach().double(), x.grad.double(), w.grad.double()))
    assert used < 1.2 * 2**27 * (4 + 4 + 2)
    for exact, rounded in zip(*found, strict=True):
        assert ((rounded - exact).norm() / exact.norm()).item() < 0.01


def test_the_five_numbers_of_a_score() -> None:
    """Features, moments, balls and distances of one set of images against another."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(127, 30 + 5 * i, (400, 8, 8, 3)).repeat(4, 1).repeat(4, 2) for i in range(2)]
    real, made = (np.clip(images, 0, 255).astype(np.uint8) for images in noise)
    found = {}
    for device in (CPU, GPU):
        network = load_extractor("efficientnet-lite0", 64, Path(), device)
        sets = []
        for images in (real, made):
            statistics = Statistics(len(images), 300, 100, device)
            statistics.gather(network, [images[:150], images[150:]])
            sets.append(statistics)
        known = Reference(sets[0].pooled.result(), sets[0].spatial.result(), manifold(sets[0].points, 3))
        found[device.type] = compare(known, sets[1], 3)
    assert set(found["cpu"]) == set(METRICS) and 0 < found["cpu"]["precision"] < 1
    for name, value in found["cpu"].items():
        assert found["cuda"][name] == pytest.approx(value, rel=1e-3, abs=0.01), name


class Fixed:
    """Features that are given."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        self._features, self.labels = features, labels

    def features(self, rows: torch.Tensor, epoch: int | None = None) -> torch.Tensor:
        return self._features[rows.to(self._features.device)]

    def passes(self, rows: torch.Tensor) -> Any:
        yield self.features(rows)


def test_the_probe_finds_the_same_accuracy() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (1500,), generator=rng)
    features = torch.randn(1500, 2, 24, generator=rng) + 0.6 * torch.randn(10, 1, 24, generator=rng)[labels]
    spec = ProbeSpec(positions=2, epochs=10, warmup_epochs=1, batch_size=64, base_lrs=[3.0, 30.0])
    found: Mapping[str, Any] = {
        kind: train_probe(
            *(Fixed(features[part].to(kind), labels[part]) for part in (slice(0, 1000), slice(1000, 1500))),
            *(10, spec, [1, 2], 0, lambda done, total: None),
        )
        for kind in ("cpu", "cuda")
    }
    assert min(found["cpu"].accuracy) > 0.5 and found["cpu"].best_lr == found["cuda"].best_lr
    np.testing.assert_allclose(found["cpu"].accuracy, found["cuda"].accuracy, atol=0.005)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_on_this_gpu_have_the_loss_and_gradient_of_one_process(tmp_path: Path, parallel: str) -> None:
    """NCCL refuses two ranks on one GPU; gloo carries their tensors here."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONFAULTHANDLER": "1"}
    for count in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
        command = [sys.executable, *launcher, "-m", "tests.numerics.on_ranks", str(tmp_path), "cuda", parallel]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[:6000]
    for method in METHODS:
        whole = torch.load(tmp_path / f"{method} - 1 ranks ddp micro 8.pt", map_location="cpu")
        layouts = list(tmp_path.glob(f"{method} - 2 ranks *.pt"))
        assert len(layouts) == 3
        for path in layouts:
            layout = torch.load(path, map_location="cpu")
            for key, value in whole.items():
                torch.testing.assert_close(
                    layout[key], value, atol=1e-9, rtol=1e-9, msg=lambda m, n=path.stem, k=key: f"{n}: {k}: {m}"
                )


def test_float32_is_float32_while_measuring() -> None:
    a, b = torch.randn(512, 512, device=GPU), torch.randn(512, 512, device=GPU)
    torch.set_float32_matmul_precision("high")
    try:
        with full_float32():
            found = a @ b
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = a.double() @ b.double()
    assert ((found - exact).norm() / exact.norm()).item() < 1e-6

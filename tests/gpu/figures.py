"""How fast the paper's model is on this GPU, each figure beside its limit, which is measured in the same run.

    python -m tests.gpu.figures [FOLDER]

Training: LlamaGen-B at 256 codes, bf16, the trainer's own step on drawn codes of 16,384, optimizer and teacher included. Model
operations count each multiply-add of the definition twice, nothing that is computed again.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from star.data.codes import CodeStore
from star.devices import visible_gpus
from star.evaluate.features import activations, prepared
from star.evaluate.inception import InceptionV3
from star.model.gpt import GPT
from star.model.sample import Sampler, in_bfloat16, noise_for, sample
from star.pipeline.config import RunSpec
from star.pipeline.model import parameters
from star.pipeline.score import INCEPTION
from star.pipeline.tokenizer import vq_flops
from star.pipeline.train import train_flops
from star.spec.load import load
from star.tokenizer.decode import image_decoder
from star.tokenizer.train import to_bytes
from star.tokenizer.vq import VQModel
from star.torch_setup import repeatable
from star.train.trainer import Trainer
from tests.helpers import ROOT, write_store

GPU = torch.device("cuda")
IMAGES = {"AR": 256, "ST-AR": 128}
"""Images of a step: as many student sequences of both."""
Row = dict[str, Any]


def seconds(work: Callable[[], object], rounds: int, warm: int = 2) -> float:
    """The median of `rounds`, each waited for."""
    for _ in range(warm):
        work()
    found = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return median(found)


def limits() -> dict[str, float]:
    """What the chip does in this run: bf16 matrix products on random numbers, and copying (bytes read and written)."""
    a, b = (torch.randn(8192, 8192, device=GPU, dtype=torch.bfloat16) for _ in range(2))
    x, y = (torch.empty(2**30, device=GPU, dtype=torch.float32).normal_() for _ in range(2))
    return {
        "matrix": 2 * 8192**3 / seconds(lambda: a @ b, 20),
        "bandwidth": 2 * x.nbytes / seconds(lambda: y.copy_(x), 10),
    }


def specs() -> dict[str, RunSpec]:
    """Table 1's first two rows: LlamaGen-B alone, and with ST-AR."""
    plain, full = (one.runs[0] for one in load(ROOT / "experiments" / "table1.yaml", "imagenet256").variants[:2])
    return {"AR": plain, "ST-AR": full}


def training(stores: tuple[CodeStore, CodeStore], peak: float) -> list[Row]:
    """Steps of the trainer, its batches included."""
    rows, each = [], {}
    for compiled in (False, True):
        for name, spec in specs().items():
            changes = {"optim": {"batch_size": IMAGES[name], "precision": "bf16"}, "resources": {"compile": compiled}}
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            with tempfile.TemporaryDirectory() as folder:
                changed = spec.model_copy(
                    update={key: getattr(spec, key).model_copy(update=value) for key, value in changes.items()}
                )
                trainer = Trainer(changed, *stores, Path(folder), GPU, lambda *_: None, lambda *_: None, lambda: False)
                took = seconds(lambda t=trainer: [t.train_step() for _ in range(5)], 5, warm=3) / 5
                del trainer
            flops = train_flops(changed) / changed.last_step
            rows.append(
                {
                    "what": f"training {name}, {'compiled' if compiled else 'eager'}, {IMAGES[name]} images a step",
                    "value": 1 / took,
                    "unit": "steps/s",
                    "limit": peak / flops,
                    "note": f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB",
                }
            )
            each[name, compiled] = took, flops / IMAGES[name]
    (plain, few), (full, many) = each["AR", True], each["ST-AR", True]
    eager = each["ST-AR", False][0] / full
    note = f"per student sequence; the limit counts operations; eager, ST-AR takes {eager:.2f} times as long"
    ratio = {"what": "what ST-AR costs, compiled", "value": full / plain, "unit": "times AR"}
    return [*rows, ratio | {"limit": many / 2 / few, "note": note}]


def transformer() -> GPT:
    """LlamaGen-B with random weights, in bf16."""
    spec = specs()["AR"]
    torch.manual_seed(0)
    model = GPT(spec.model, spec.tokenizer.codebook_size, spec.data.num_classes, spec.grid)
    torch.nn.init.normal_(model.output.weight, std=0.02)
    return in_bfloat16(model.eval().to(GPU))


def sampling(model: GPT, bandwidth: float) -> list[Row]:
    """Codes with guidance. At batch 1 the limit is reading the weights once per code."""
    spec = specs()["AR"]
    per_code, rows = 2 * parameters(spec) / bandwidth, []
    generate = spec.generate.model_copy(update={"cfg_scale": 2.0})
    for how, batches in (("one by one", (64,)), ("as a graph", (64,)), ("as a graph, compiled", (1, 64, 500))):
        for batch in batches:
            labels = torch.arange(batch, device=GPU) % 1000
            noise = noise_for(0, 0, batch, spec.sequence_length).to(GPU)
            start = time.perf_counter()
            work: Callable[[Any, Any], object] = lambda y, n: sample(model, y, n, generate)  # noqa: E731
            if how != "one by one":
                sampler = Sampler(model, batch, generate, compiled=how.endswith("compiled"))
                work = sampler
            torch.cuda.synchronize()
            ready = time.perf_counter() - start
            took = seconds(lambda w=work, y=labels, n=noise: w(y, n), 3, warm=1)
            row: Row = {"what": f"sampling with guidance, batch {batch}, kernels {how}", "value": batch / took}
            limit = 1 / (per_code * spec.sequence_length) if batch == 1 else None
            note = f"{1000 * took / spec.sequence_length:.2f} ms per code; ready in {ready:.0f} s"
            rows.append(row | {"unit": "images/s", "limit": limit, "note": note})
            del work
    return rows


def decoding(model: GPT, peak: float) -> list[Row]:
    """VQ-16's decoder in each precision, and images from label to pixels as the stage generate makes them."""
    spec, rows = specs()["AR"], []
    _, flops = vq_flops(spec.tokenizer, 256, 3)
    codes = torch.randint(spec.tokenizer.codebook_size, (128, 256), device=GPU)
    exact = None
    for precision, compiled in (("fp32", False), ("tf32", False), ("bf16", False), ("bf16", True)):
        torch.manual_seed(0)
        decode = image_decoder(VQModel(spec.tokenizer, 3).eval().to(GPU), precision, len(codes), compiled)
        images = to_bytes(decode(codes)).astype(int)
        exact = images if exact is None else exact
        rate = len(codes) / seconds(lambda d=decode: d(codes), 3, warm=1)
        note = f"pixels differ by {np.abs(images - exact).mean():.2g} of 255 on average"
        what = f"decoding by VQ-16, {precision}{', compiled' if compiled else ''}"
        rows.append({"what": what, "value": rate, "unit": "images/s", "limit": peak / flops, "note": note})
    generate = spec.generate.model_copy(update={"cfg_scale": 2.0})
    sampler, labels = Sampler(model, 500, generate, compiled=True), torch.arange(500, device=GPU)
    noise = noise_for(0, 0, 500, spec.sequence_length).to(GPU)

    def work() -> None:
        for part in sampler(labels, noise).split(len(codes)):
            to_bytes(decode(part))

    took = seconds(work, 3, warm=1)
    note = f"50,000 in {100 * took:.0f} s"
    whole = {"what": "images in bf16, compiled, from label to pixels", "value": 500 / took, "unit": "images/s"}
    return [*rows, whole | {"limit": None, "note": note}]


def networks(peak: float) -> list[Row]:
    """VQ-16's encoder and Inception on images of 256 x 256. They compute in float32; the limit is the bf16 rate."""
    spec, rng = specs()["AR"], np.random.default_rng(0)
    encode, _ = vq_flops(spec.tokenizer, 256, 3)
    torch.manual_seed(0)
    vq = VQModel(spec.tokenizer, 3).eval().to(GPU)
    images = torch.rand(64, 3, 256, 256, device=GPU) * 2 - 1
    pictures = rng.integers(0, 256, (128, 256, 256, 3), dtype=np.uint8)
    network = prepared(InceptionV3()).to(GPU)
    with torch.no_grad():
        codes = vq.encode(images)
        found = {
            "encoding by VQ-16": (64, encode, lambda: vq.encode(images)),
            "features by Inception": (1280, INCEPTION, lambda: list(activations(network, [pictures] * 10, GPU))),
        }
        rows = []
        for name, (count, flops, work) in found.items():
            rate = count / seconds(work, 3, warm=1)
            rows.append({"what": name, "value": rate, "unit": "images/s", "limit": peak / flops, "note": ""})
        torch.backends.cudnn.allow_tf32 = True
        rate, other = 64 / seconds(lambda: vq.encode(images), 3, warm=1), (vq.encode(images) != codes).float().mean()
        torch.backends.cudnn.allow_tf32 = False
        note = f"not used: {100 * other.item():.2g}% of the codes differ"
        rows.append(
            {"what": "encoding in TF32", "value": rate, "unit": "images/s", "limit": peak / encode, "note": note}
        )
    return rows


def measured() -> dict[str, Any]:
    """All figures and what they were measured on."""
    repeatable(4)
    chip, rng = limits(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        stores = []
        for split, count, views in (("train", 2000, 10), ("test", 100, 1)):
            codes = rng.integers(0, 16384, (count, views, 256))
            stores.append(write_store(Path(folder) / split, codes, rng.integers(0, 1000, count)))
        rows = training((stores[0], stores[1]), chip["matrix"])
    model = transformer()
    rows += sampling(model, chip["bandwidth"]) + decoding(model, chip["matrix"]) + networks(chip["matrix"])
    gpu = visible_gpus()[0]
    return {
        "gpu": gpu.name,
        "driver": gpu.driver,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "matrix_tflops": chip["matrix"] / 1e12,
        "bandwidth_tb": chip["bandwidth"] / 1e12,
        "rows": rows,
    }


def markdown(found: dict[str, Any]) -> str:
    """The table of the figures."""
    lines = [
        f"# {found['gpu']}",
        "",
        f"torch {found['torch']}, CUDA {found['cuda']}, driver {found['driver']}, Python {found['python']}. Limits, measured in the "
        f"same run: {found['matrix_tflops']:.0f} TFLOP/s in bf16 matrix products, {found['bandwidth_tb']:.2f} TB/s copied.",
        "",
        "| what | measured | limit | share | |",
        "|---|---:|---:|---:|---|",
    ]
    for row in found["rows"]:
        limit = row["limit"]
        share = "" if limit is None else f"{100 * row['value'] / limit:.0f}%"
        bound = "" if limit is None else f"{limit:.4g}"
        lines.append(f"| {row['what']} | {row['value']:.4g} {row['unit']} | {bound} | {share} | {row['note']} |")
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    """Write FOLDER/GPU.md and GPU.json, and print the table."""
    found = measured()
    folder.mkdir(parents=True, exist_ok=True)
    name = found["gpu"].replace(" ", "-").lower()
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "reports" / "gpu")

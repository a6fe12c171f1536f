"""What a training step of LlamaGen-B costs with ST-AR, as a ratio to a plain step on the same images.

    python -m tests.benchmarks.step_cost [images] [rounds] [--compile]

Variants take turns in one process, so that a noisy machine disturbs all alike; the median of each is compared. The floor
is the ratio of operations (METHOD: the student sees two views, the teacher two, without its head).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from star.model.gpt import GPT
from star.objectives.batch import ClassDropout, draw_batch
from star.objectives.objective import Objective
from star.objectives.st_ar import st_ar
from star.pipeline.config import RunSpec
from star.pipeline.train import train_flops
from star.spec.load import load
from tests.helpers import ROOT

DROPOUTS = ("token_dropout", "residual_dropout", "ffn_dropout")


def variants() -> dict[str, RunSpec]:
    """The first rows of table 1, and the second with parts taken away."""
    plain, full = (
        variant.runs[0] for variant in load(ROOT / "experiments" / "table1.yaml", "imagenet256").variants[:2]
    )
    still = full.model_copy(update={"model": full.model.model_copy(update=dict.fromkeys(DROPOUTS, 0.0))})
    one = full.model_copy(update={"selfguided": full.selfguided.model_copy(update={"student_views": 1})})
    return {"plain, one view": plain, "ST-AR": full, "ST-AR without dropout": still, "ST-AR, one student view": one}


def step(spec: RunSpec, images: int, device: torch.device, compiled: bool) -> Callable[[], None]:
    """Everything of a step but the optimizer's own update."""
    torch.manual_seed(0)
    student = GPT(spec.model, spec.tokenizer.codebook_size, spec.data.num_classes, spec.grid)
    terms = st_ar(spec.selfguided, spec.contrastive_layer)
    objective = Objective(student, terms).to(device)
    for model in (student, objective.teacher and objective.teacher.copy) if compiled else ():
        for block in model.layers if model is not None else ():
            block.compile()
    shape = (images, spec.selfguided.num_views, spec.sequence_length)
    codes, labels = torch.randint(spec.tokenizer.codebook_size, shape), torch.randint(1000, (images,))
    dropout = spec.model.residual_dropout > 0
    views, generator = spec.selfguided.student_views, torch.Generator()
    batch = draw_batch(terms, codes, labels, views, ClassDropout(1000), generator, dropout).to(device)

    def run() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = objective.losses(batch, objective.targets(batch))["loss"]
        loss.backward()
        objective.zero_grad()
        objective.update_teacher(0)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def main(images: int, rounds: int, compiled: bool) -> None:
    """Print a line for each variant."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    specs = variants()
    steps = {name: step(spec, images, device, compiled) for name, spec in specs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    base = next(iter(specs))
    print(f"{images} images, median of {rounds}, {torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}")
    for name, spec in specs.items():
        ratio = median(seconds[name]) / median(seconds[base])
        floor = train_flops(spec) / train_flops(specs[base])
        print(f"  {name:<26} {median(seconds[name]):7.3f} s  {ratio:5.2f} x plain  (floor {floor:.2f})")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    main(*(numbers + [2, 3][len(numbers) :]), compiled="--compile" in sys.argv)

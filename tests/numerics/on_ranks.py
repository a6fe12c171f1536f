"""One training step's loss and gradient, on as many ranks as started this: `on_ranks.py OUT [DEVICE [ddp|fsdp]]` writes OUT/CASE.pt.

Run by test_ranks.py, alone and under torchrun; by tests/gpu with all ranks on one GPU, which gloo allows and NCCL does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from star.model.gpt import GPT
from star.objectives.batch import Batch, ClassDropout, draw_batch
from star.objectives.objective import Objective
from star.objectives.st_ar import st_ar
from star.pipeline.config.model import ModelSpec
from star.pipeline.config.selfguided import SelfGuidedSpec
from star.ranks import Ranks, exit_now, join, leave
from star.train.distributed import accumulating, full_tensor, parallelize
from tests.numerics.published import ARRANGING, EVEN, FIELDS, term
from tests.numerics.toy_terms import toy_terms

IMAGES = 8
METHODS = {
    "published terms": SelfGuidedSpec(mim_weight=0.0, contrastive_weight=0.0),
    "order beside ST-AR": SelfGuidedSpec(num_positions=3, projector_hidden=8),
    "coarse": SelfGuidedSpec(mim_weight=0.0, contrastive_weight=0.0),
    "registers": SelfGuidedSpec(mim_weight=0.0, contrastive_weight=0.0),
    "own terms": SelfGuidedSpec(num_positions=3, projector_hidden=8),
    "st-ar": SelfGuidedSpec(num_positions=3, projector_hidden=8),
    "sums, own projector": SelfGuidedSpec(num_positions=3, projector_hidden=8, reduction="sum", teacher_projector=True),
    "contrastive only": SelfGuidedSpec(num_positions=3, projector_hidden=8, mim_weight=0.0),
    "MIM, one student view": SelfGuidedSpec(contrastive_weight=0.0, student_views=1, mim_positions="masked"),
    "baseline": SelfGuidedSpec(mim_weight=0.0, contrastive_weight=0.0, num_views=1),
}


def objective_and_batch(name: str) -> tuple[Objective, Batch]:
    """In double precision, with dropout, the teacher moved off the student."""
    spec = METHODS[name]
    torch.manual_seed(0)
    model = ModelSpec(n_layer=2, n_head=2, dim=16, ffn_multiple_of=16)
    more = {"own terms": toy_terms, "published terms": lambda: [term(one) for one in FIELDS]}.get(name, list)
    arranging = [term(one, EVEN) for one in ARRANGING if name.startswith(one)]
    grid = 4 if arranging else 3
    student = GPT(model, vocab_size=32, num_classes=10, grid=grid)
    terms = [*st_ar(spec, 1), *more(), *arranging]
    objective = Objective(student, terms, spec.ema_decay, spec.ema_ramp).double()
    for parameter in objective.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    codes, labels = torch.randint(32, (IMAGES, spec.num_views, grid**2)), torch.randint(10, (IMAGES,))
    generator = torch.Generator().manual_seed(1)
    views, dropped = spec.student_views, ClassDropout(10)
    store = {"images": torch.arange(IMAGES), "stored_views": torch.arange(spec.num_views).expand(IMAGES, -1)}
    return objective, draw_batch(terms, codes, labels, views, dropped, generator, True, 0.25, **store)


def step(name: str, ranks: Ranks, parallel: str, micro: int, device: str) -> dict[str, torch.Tensor]:
    """The loss, its parts, and the gradient of every trained parameter, each of the global batch."""
    objective, batch = objective_and_batch(name)
    objective, batch = objective.to(device), batch.to(torch.device(device))
    rows = ranks.share(IMAGES)
    learner = parallelize(objective, parallel, ranks)
    targets = objective.targets(batch, rows, micro, ranks.gather)
    found: dict[str, torch.Tensor] = {}
    for first in range(rows.start, rows.stop, micro):
        part = slice(first, min(first + micro, rows.stop))
        with accumulating(learner, last=part.stop == rows.stop):
            losses = objective.losses(batch, targets, part, learner)
            (losses["loss"] * ranks.world_size).backward()
        if parallel == "fsdp":  # no rank holds a whole gradient between passes
            assert all(hasattr(one.grad, "to_local") for one in learner.parameters() if one.grad is not None)
            assert any(one.grad is not None for one in learner.parameters())
        for name, value in losses.items():
            found[name] = found.get(name, torch.zeros((), dtype=torch.float64, device=device)) + value.detach()
    found = {name: ranks.all_reduce(value) for name, value in found.items()}
    for name, parameter in objective.learner.named_parameters():
        assert parameter.grad is not None, name
        found[f"gradient of {name}"] = full_tensor(parameter.grad) if device == "cpu" else joined(parameter.grad, ranks)
    objective.update_teacher(step=3)
    averages = [
        *(objective.teacher.named_parameters() if objective.teacher else ()),
        *objective.head_averages.named_parameters(),
    ]
    for name, parameter in averages:
        found[f"average of {name}"] = full_tensor(parameter) if device == "cpu" else joined(parameter, ranks)
    return found


def joined(gradient: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """A whole gradient of its shards, by way of the CPU: DTensor's own way over gloo ends in a segmentation fault on a GPU."""
    if not hasattr(gradient, "to_local"):
        return gradient
    parts: list[torch.Tensor] = [torch.empty(0)] * ranks.world_size
    torch.distributed.all_gather_object(parts, gradient.to_local().cpu())
    return torch.cat(parts)


def main(out: Path, device: str = "cpu", *wrappers: str) -> None:
    """All methods, wrappers (or those named) and micro-batches that these ranks can do."""
    ranks = join("cpu")  # gloo
    own = IMAGES // ranks.world_size
    for parallel in (wrappers or ("ddp", "fsdp")) if ranks.world_size > 1 else ("ddp",):
        for micro in sorted({own, 3, 1} if own > 3 else {own, 1}):
            for name in METHODS:
                found = step(name, ranks, parallel, micro, device)
                if ranks.is_main:
                    torch.save(found, out / f"{name} - {ranks.world_size} ranks {parallel} micro {micro}.pt")
    leave(ranks)
    if ranks.world_size > 1:
        exit_now(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

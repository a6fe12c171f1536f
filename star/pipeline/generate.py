"""Stage `generate`: images of every class from the trained model, or given ones; the section `generate` of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from star.pipeline.model import forward_flops
from star.pipeline.tokenizer import coding_flops
from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


COLDEST = 1e-5
"""Temperatures below are taken as this one, as in LlamaGen: logits that are divided by less may be infinite."""


def _flops(run: StarRun) -> float:
    spec = run.generate
    if spec.samples:
        return 0.0
    passes = 2 if spec.cfg_scale > 1 else 1
    return spec.num_images * (passes * forward_flops(run) + coding_flops(run)[1])


def _disk(run: StarRun) -> float:
    side = run.generate.image_size or run.data.image_size
    return float(run.generate.num_images * side**2 * run.data.channels)


def _unchanged(run: StarRun) -> int:
    """2: top_p keeps one code more where probabilities tie at its threshold. 3: logits in fp32 after a bf16 transformer, the null
    label where no other was trained, temperatures below `COLDEST`."""
    spec = run.generate
    if spec.samples is None and (spec.precision == "bf16" or run.is_unconditional or spec.temperature < COLDEST):
        return 0
    return 2 if spec.top_p == 1 else 1


GENERATE = Stage(
    "generate",
    3,
    ("generate", "seed"),
    ("train", "tokenizer"),
    only_if=dict.fromkeys(("train", "tokenizer"), lambda run: run.generate.samples is None),
    config={"generate": "star.pipeline.config.generate:GenerateSpec"},
    check="star.pipeline.config.generate:check",
    run="star.stages.generate:generate",
    draws="sampling",
    source="samples",
    given=("generate.samples",),
    look="star.data.look:samples",
    files=("samples.png",),
    drawn={"samples": "samples.png"},
    keeps="shards",
    width="processes",
    flops=_flops,
    disk=_disk,
    unchanged=_unchanged,
)

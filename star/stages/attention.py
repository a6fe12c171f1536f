"""Stage `attention`: what the transformer attends to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from star.data.codes import CodeStore
from star.data.pixels import Images
from star.evaluate.attention import measure_attention, uniform
from star.evaluate.linear_probe import probe_positions
from star.pipeline.attention import SHARES
from star.stages.context import Context, Result, gpt_of, some_of, vq_of
from star.tokenizer.train import to_bytes


def attention(ctx: Context) -> Result:
    """Measure what the student attends to, by layer and by position; maps of some images go to attention.npz."""
    model, spec = gpt_of(ctx, "student"), ctx.spec.attention
    store = CodeStore(ctx.inputs["encode"] / "test")
    rows, size = some_of(ctx.spec, len(store), spec.images), max(1, ctx.spec.resources.eval_batch_size)
    positions = probe_positions(min(spec.positions, ctx.spec.sequence_length), ctx.spec.sequence_length)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            labels = torch.from_numpy(store.labels[part])
            if spec.label == "null" or ctx.spec.is_unconditional:
                labels = torch.full_like(labels, model.null_label)
            yield torch.from_numpy(store.center_of(part)).to(ctx.device), labels.to(ctx.device)
            ctx.progress(first + len(part), len(rows))

    found = measure_attention(model, batches(), positions, spec.shown)
    for by, first in (("layer", 1), ("position", 1)):
        curves = {f"{name}_by_{by}": found.average(name, by=by) for name in SHARES}
        for step in range(len(next(iter(curves.values())))):
            ctx.record(step + first, {name: values[step].item() for name, values in curves.items()})
    shown = rows[: len(found.maps)]
    np.savez(
        ctx.out / "attention.npz",
        maps=found.maps.numpy().astype(np.float16),
        positions=positions,
        labels=store.labels[shown],
        images=_decoded(ctx, store.center_of(shown)),
        **{name: values.numpy().astype(np.float32) for name, values in found.numbers.items()},  # type: ignore[arg-type]
        **{f"uniform_{name}": values.numpy() for name, values in uniform(ctx.spec.grid).items()},  # type: ignore[arg-type]
    )
    last = {f"last_layer_{name}": found.average(name, layer=-1).item() for name in SHARES}
    return {name: found.average(name).item() for name in SHARES} | last


def _decoded(ctx: Context, codes: np.ndarray) -> Images:
    """Decode codes (B, T) to images (B, S, S, C)."""
    model = vq_of(ctx)
    with torch.no_grad():
        return to_bytes(model.decode(torch.from_numpy(codes).to(ctx.device)))

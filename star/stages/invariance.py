"""Stage `invariance`: how many codes change when an image is shifted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from star.data.pixels import Images
from star.evaluate.invariance import DIRECTIONS, changed, shifted
from star.stages.context import Context, Pixels, Result, some_of, vq_of
from star.tokenizer.train import to_tensor


def invariance(ctx: Context) -> Result:
    """Measure the share of codes that change between slightly shifted views; some such views go to invariance.npz."""
    spec, size, downsample = ctx.spec.invariance, ctx.spec.data.image_size, ctx.spec.tokenizer.downsample
    pixels, model, grid = Pixels(ctx, "test"), vq_of(ctx), ctx.spec.grid
    rows, batch = some_of(ctx.spec, len(pixels), spec.images), max(1, ctx.spec.resources.eval_batch_size)
    cases = [(shift, direction) for shift in spec.shifts for direction in DIRECTIONS]
    rates, compared = np.zeros(len(cases)), np.zeros(len(cases))
    shown: dict[str, list[np.ndarray]] = {}

    def encoded(views: Images) -> np.ndarray:
        with torch.no_grad():
            codes = model.encode(to_tensor(views).to(ctx.device))
        return codes.view(-1, grid, grid).cpu().numpy()

    for first in range(0, len(rows), batch):
        images = pixels.at(rows[first : first + batch], size + max(spec.shifts))
        keep = max(0, spec.shown - first)
        views = images[:, :size, :size]
        codes = encoded(views)
        _collect(shown, keep, images=views, codes=codes)
        for i, (shift, direction) in enumerate(cases):
            moved = shifted(images, size, shift, direction)
            others = encoded(moved)
            differ = changed(codes, others, shift, downsample, direction)
            rates[i] += differ.sum()
            compared[i] += differ.size
            name = f"{direction}_{shift}"
            _collect(shown, keep, **{f"images_{name}": moved, f"codes_{name}": others, f"changed_{name}": differ})
        ctx.progress(first + len(images), len(rows))
    by_shift = (rates / compared).reshape(len(spec.shifts), len(DIRECTIONS)).mean(1)
    for shift, rate in sorted(zip(spec.shifts, by_shift.tolist(), strict=True)):
        ctx.record(shift, {"change_rate_by_shift": rate})
    pieces: dict[str, Any] = {name: np.concatenate(parts) for name, parts in shown.items()}
    np.savez(ctx.out / "invariance.npz", shifts=spec.shifts, **pieces)
    return {"change_rate": float(by_shift.mean())}


def _collect(shown: dict[str, list[np.ndarray]], keep: int, **arrays: np.ndarray) -> None:
    for name, values in arrays.items():
        shown.setdefault(name, []).append(values[:keep])

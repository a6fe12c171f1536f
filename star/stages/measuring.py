"""Stages that measure: reference and score, probe, attention, invariance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from star.data.codes import CodeStore
from star.data.image_sets import open_images
from star.data.inception_file import kept
from star.data.pixels import Images
from star.errors import DataError
from star.evaluate.attention import SHARES, measure_attention, uniform
from star.evaluate.features import features_of, load_extractor
from star.evaluate.invariance import DIRECTIONS, changed, shifted
from star.evaluate.linear_probe import probe_positions, train_probe
from star.evaluate.precision_recall import Manifold, manifold
from star.evaluate.probe_features import BackboneFeatures
from star.evaluate.reference_file import read_reference, write_reference
from star.evaluate.statistics import GENERATED_KEPT, Reference, Statistics, compare
from star.stages.context import Context, Pixels, Result, gpt_of, vq_of
from star.tokenizer.train import to_bytes, to_tensor


def reference(ctx: Context) -> Result:
    """Moments and balls of real images, once for all runs that are scored against them: reference.npz in ADM's layout."""
    spec = ctx.spec.score
    if spec.reference:
        return _given_reference(ctx, Path(spec.reference))
    real = Pixels(ctx, "train")
    total = min(spec.num_reference, len(real))
    found = Statistics(total, spec.manifold_images, spec.is_split_size, ctx.device)

    def read(rows: slice) -> Images:
        return real.plain(rows)

    _gather(ctx, found, read)
    own = features_of(spec.extractor, spec.input_size)
    if ctx.ranks.is_main:
        shown = real.plain(found.kept)
        write_reference(ctx.out / "reference.npz", own, found.pooled.result(), found.spatial.result(), shown)
        _write_manifold(ctx.out, manifold(found.points, spec.neighbours))
    return {}


def _given_reference(ctx: Context, path: Path) -> Result:
    """A file in ADM's layout: its moments as they are, the balls of its images."""
    spec = ctx.spec.score
    known = read_reference(path)
    own = features_of(spec.extractor, spec.input_size)
    if known.extractor != own:
        raise DataError(
            f"score.reference: {path} was made with {known.extractor}, this run's features are {own}; they must be one."
        )
    if known.pooled is None or known.spatial is None or not known.has_images:
        raise DataError(
            f"score.reference: {path} lacks mu, sigma, mu_s, sigma_s or arr_0; a table needs all five numbers."
        )
    images = open_images(path)
    found = Statistics(len(images), len(images), spec.is_split_size, ctx.device)
    found.gather(
        _extractor(ctx),
        images.batches(ctx.spec.resources.eval_batch_size),
        side=spec.image_size,
        progress=lambda done: ctx.progress(done, len(images)),
    )
    if ctx.ranks.is_main:
        # the images stay where they are: a copy of 2 GB serves nobody
        empty = np.zeros((0, 1, 1, 3), dtype=np.uint8)
        write_reference(ctx.out / "reference.npz", known.extractor, known.pooled, known.spatial, empty)
        _write_manifold(ctx.out, manifold(found.points, spec.neighbours))
    return {}


def _write_manifold(folder: Path, balls: Manifold) -> None:
    np.savez(folder / "manifold.npz", points=balls.points.cpu().numpy(), radii=balls.radii.cpu().numpy())


def score(ctx: Context) -> Result:
    """Generated against reference images."""
    spec = ctx.spec.score
    known = read_reference(ctx.inputs["reference"] / "reference.npz")
    assert known.pooled is not None
    images = np.load(ctx.inputs["generate"] / "images.npy", mmap_mode="r")
    found = Statistics(len(images), GENERATED_KEPT, spec.is_split_size, ctx.device)
    _gather(ctx, found, lambda rows: images[rows])
    with np.load(ctx.inputs["reference"] / "manifold.npz") as file:
        balls = Manifold(*(torch.from_numpy(file[name]).to(ctx.device) for name in ("points", "radii")))
    values = compare(Reference(known.pooled, known.spatial, balls), found, spec.neighbours)
    return {f"{spec.extractor}/{name}": value for name, value in values.items()}


def _gather(ctx: Context, found: Statistics, read: Callable[[slice], Images]) -> None:
    """This rank's images, a contiguous share, then everybody's."""
    spec, size = ctx.spec.score, ctx.spec.resources.eval_batch_size
    assert found.total is not None
    first, last = ((ctx.ranks.rank + i) * found.total // ctx.ranks.world_size for i in (0, 1))
    batches = (read(slice(start, min(start + size, last))) for start in range(first, last, size))
    found.gather(_extractor(ctx), batches, first, spec.image_size, lambda done: ctx.progress(done, last - first))
    found.merge_ranks(ctx.ranks)


def _extractor(ctx: Context) -> Any:
    spec = ctx.spec.score
    weights = Path(spec.weights) if spec.weights else kept(ctx.data_home)
    return load_extractor(spec.extractor, spec.input_size, weights, ctx.device)


def probe(ctx: Context) -> Result:
    """Linear-probe accuracy at equally spaced positions; `accuracy` is the last one's, as in table 3."""
    model, spec, resources = gpt_of(ctx, "student"), ctx.spec.probe, ctx.spec.resources
    positions = probe_positions(spec.positions, ctx.spec.sequence_length)
    sides, room = [], resources.feature_cache_gb * 1e9
    for split in ("train", "test"):
        side = BackboneFeatures(
            model,
            CodeStore(ctx.inputs["encode"] / split),
            ctx.spec.probe_layer,
            positions,
            resources.sample_batch_size,
            stored_views=spec.views == "stored" and split == "train",
            dtype=spec.feature_dtype,
            limit=room,
            seed=ctx.spec.seed,
            progress=ctx.progress,
        )
        sides.append(side)
        room -= 0 if side.kept is None else side.kept.nbytes
    found = train_probe(sides[0], sides[1], ctx.spec.data.num_classes, spec, positions, ctx.spec.seed, ctx.progress)
    for position, top1, top5, rate in zip(
        found.positions, found.accuracy, found.accuracy_top5, found.best_lr, strict=True
    ):
        values = {"accuracy_by_position": top1, "accuracy_top5_by_position": top5, "best_lr_by_position": rate}
        ctx.record(position, values)
    return {"accuracy": found.accuracy[-1], "accuracy_top5": found.accuracy_top5[-1]}


def attention(ctx: Context) -> Result:
    """Where the model looks: numbers by layer and by position, and maps of some images in attention.npz."""
    model, spec = gpt_of(ctx, "student"), ctx.spec.attention
    store = CodeStore(ctx.inputs["encode"] / "test")
    count, size = min(spec.images, len(store)), max(1, ctx.spec.resources.eval_batch_size)
    positions = probe_positions(min(spec.positions, ctx.spec.sequence_length), ctx.spec.sequence_length)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, count, size):
            last = min(first + size, count)
            labels = torch.from_numpy(store.labels[first:last])
            if spec.label == "null":
                labels = torch.full_like(labels, model.null_label)
            yield torch.from_numpy(store.center(first, last)).to(ctx.device), labels.to(ctx.device)
            ctx.progress(last, count)

    found = measure_attention(model, batches(), positions, spec.shown)
    for by, first in (("layer", 1), ("position", 1)):
        curves = {f"{name}_by_{by}": found.average(name, by=by) for name in SHARES}
        for step in range(len(next(iter(curves.values())))):
            ctx.record(step + first, {name: values[step].item() for name, values in curves.items()})
    shown = len(found.maps)
    np.savez(
        ctx.out / "attention.npz",
        maps=found.maps.numpy().astype(np.float16),
        positions=positions,
        labels=store.labels[:shown],
        images=_decoded(ctx, store.center(0, shown)),
        **{name: values.numpy().astype(np.float32) for name, values in found.numbers.items()},  # type: ignore[arg-type]
        **{f"uniform_{name}": values.numpy() for name, values in uniform(ctx.spec.grid).items()},  # type: ignore[arg-type]
    )
    last = {f"last_layer_{name}": found.average(name, layer=-1).item() for name in SHARES}
    return {name: found.average(name).item() for name in SHARES} | last


def _decoded(ctx: Context, codes: np.ndarray) -> Images:
    """The images (B, S, S, C) that codes (B, T) stand for."""
    model = vq_of(ctx)
    with torch.no_grad():
        return to_bytes(model.decode(torch.from_numpy(codes).to(ctx.device)))


def invariance(ctx: Context) -> Result:
    """How many codes change between slightly shifted views, and some such views in invariance.npz."""
    spec, size, downsample = ctx.spec.invariance, ctx.spec.data.image_size, ctx.spec.tokenizer.downsample
    pixels, model, grid = Pixels(ctx, "test"), vq_of(ctx), ctx.spec.grid
    count, batch = min(spec.images, len(pixels)), max(1, ctx.spec.resources.eval_batch_size)
    cases = [(shift, direction) for shift in spec.shifts for direction in DIRECTIONS]
    rates, compared = np.zeros(len(cases)), np.zeros(len(cases))
    shown: dict[str, list[np.ndarray]] = {}

    def encoded(views: Images) -> np.ndarray:
        with torch.no_grad():
            codes = model.encode(to_tensor(views).to(ctx.device))
        return codes.view(-1, grid, grid).cpu().numpy()

    for first in range(0, count, batch):
        images = pixels.at(slice(first, min(first + batch, count)), size + max(spec.shifts))
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
        ctx.progress(first + len(images), count)
    by_shift = (rates / compared).reshape(len(spec.shifts), len(DIRECTIONS)).mean(1)
    for shift, rate in sorted(zip(spec.shifts, by_shift.tolist(), strict=True)):
        ctx.record(shift, {"change_rate_by_shift": rate})
    pieces: dict[str, Any] = {name: np.concatenate(parts) for name, parts in shown.items()}
    np.savez(ctx.out / "invariance.npz", shifts=spec.shifts, **pieces)
    return {"change_rate": float(by_shift.mean())}


def _collect(shown: dict[str, list[np.ndarray]], keep: int, **arrays: np.ndarray) -> None:
    for name, values in arrays.items():
        shown.setdefault(name, []).append(values[:keep])

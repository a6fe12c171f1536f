"""Stages from images to codes: dataset, tokenizer, encode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from star.checkpoint import Checkpoints
from star.data.codes import LEFT_OUT
from star.data.llamagen_codes import LlamaGenCodes
from star.data.pixels import Images
from star.data.sharded import ShardedArray
from star.data.sources import ImageSource
from star.data.splits import Split
from star.data.views import NUM_VIEWS, center, ordered_views
from star.errors import DataError
from star.stages.context import Context, Pixels, Result, images_of, job_of, shared_shards, vq_of
from star.stages.own_tokenizer import CheckedTokenizer, own_tokenizer
from star.tokenizer.load import load_vq
from star.tokenizer.train import reconstruction_report, to_tensor, train_vq
from star.weights import fit, load_state, save_weights

log = logging.getLogger(__name__)
Source = Callable[[slice], tuple[np.ndarray, np.ndarray]]


def dataset(ctx: Context) -> Result:
    """Which images are used: a fixed random subset of each split, and their labels."""
    spec, skipped = ctx.spec.data, 0
    counts: dict[Split, int] = {"train": spec.train_images, "test": spec.test_images}
    for split, count in counts.items():
        source = images_of(ctx, split)
        if count > len(source.labels):
            raise DataError(
                f"data.{split}_images: {count} images were planned, but the {split} split has {len(source.labels)} now; "
                "run again, which makes a new plan of what is there."
            )
        chosen = np.sort(np.random.default_rng(0).permutation(len(source.labels))[:count])
        if spec.bad_images == "skip":
            chosen = _readable(ctx, source, chosen)
            skipped += count - len(chosen)
            if not len(chosen):
                raise DataError(f"data.bad_images: none of the {count} {split} images can be read; the log names them.")
        np.savez(ctx.out / f"{split}.npz", indices=chosen, labels=source.labels[chosen], listing=source.listing())
    return {"skipped": skipped}


def _readable(ctx: Context, source: ImageSource, chosen: np.ndarray) -> np.ndarray:
    """Those of the images that can be decoded and have a legal label."""
    good = []
    for first in range(0, len(chosen), 1000):
        part = chosen[first : first + 1000]
        for index, problem in zip(part, source.problems(part), strict=True):
            if problem:
                log.warning("left out: %s", problem)
            else:
                good.append(index)
        ctx.progress(first + len(part), len(chosen))
    return np.array(good, dtype=np.int64)


def tokenizer(ctx: Context) -> Result:
    """Train the VQ model (or take the given weights), resumable, and report how test images survive it."""
    spec, size = ctx.spec.tokenizer, ctx.spec.data.image_size
    train, test = Pixels(ctx, "train"), Pixels(ctx, "test")

    def batch_at(step: int, count: int = spec.batch_size) -> Images:
        rng = np.random.default_rng((spec.seed, step))
        rows = np.sort(rng.choice(len(train), count))
        return ordered_views(train.read(rows), ctx.spec.data)[
            np.arange(len(rows)), rng.integers(0, NUM_VIEWS, len(rows))
        ]

    own = own_tokenizer(ctx.spec, ctx.plugins)
    if own is not None:
        model = own.to(ctx.device)
        if spec.weights:
            fit(model, load_state(Path(spec.weights)), Path(spec.weights), "tokenizer")
        else:
            model.fit(lambda step, count: to_tensor(batch_at(step, count)).to(ctx.device), job_of(ctx, spec.seed, {}))
        model.eval()
    elif spec.weights:
        model = load_vq(spec, ctx.spec.data.channels, Path(spec.weights)).to(ctx.device)
    else:
        resources = ctx.spec.resources
        kept = Checkpoints(ctx.checkpoints, resources.keep_checkpoints)
        model = train_vq(
            *(spec, ctx.spec.data.channels, batch_at, ctx.device, ctx.record, ctx.progress),
            *(kept, resources.checkpoint_every, ctx.stop),
        )
    save_weights(ctx.out / "vq.pt", model.state_dict())
    shown = min(len(test), 2000)
    batches = [
        center(test.read(slice(i, min(i + ctx.spec.resources.eval_batch_size, shown))), size)
        for i in range(0, shown, ctx.spec.resources.eval_batch_size)
    ]
    seen = model if own is None else CheckedTokenizer(model, ctx.spec)
    return reconstruction_report(seen, spec.codebook_size, batches, ctx.device)


def encode(ctx: Context) -> Result:
    """All views of each training image, the centre crop of each test image, as codes; shard by shard, resumable."""
    data, length = ctx.spec.data, ctx.spec.sequence_length
    train, test = (Pixels(ctx, split) for split in ("train", "test"))
    views = NUM_VIEWS * len(data.crop_ranges)
    model = vq_of(ctx)

    def from_pixels(images: Pixels, crops: Callable[[slice], Images], per_image: int) -> Source:
        def codes(rows: slice) -> tuple[np.ndarray, np.ndarray]:
            per_pass, parts = max(1, ctx.spec.resources.eval_batch_size // per_image), []
            for first in range(rows.start, rows.stop, per_pass):
                cut = crops(slice(first, min(first + per_pass, rows.stop)))
                with torch.no_grad():
                    found = model.encode(to_tensor(cut.reshape(-1, *cut.shape[2:])).to(ctx.device))
                parts.append(found.view(-1, per_image, length).cpu().numpy())
                ctx.progress(meter.done + (first - rows.start) * per_image, meter.total)
            return np.concatenate(parts), images.labels[rows]

        return codes

    source = from_pixels(train, train.views, views)
    if data.codes:
        given = LlamaGenCodes(
            Path(data.codes), len(data.crop_ranges), length, ctx.spec.tokenizer.codebook_size, data.bad_images == "skip"
        )
        given.check_count(train.source.total)
        numbers = train.source.numbers[train.indices]
        source = lambda rows: given.read(numbers[rows], train.labels[rows])  # noqa: E731
    plain = from_pixels(test, lambda rows: center(test.read(rows), data.image_size)[:, None], 1)
    meter, skipped = _Meter(len(train) * views + len(test)), 0
    for name, images, shape, read in (("train", train, (views, length), source), ("test", test, (1, length), plain)):
        stored = ShardedArray(ctx.checkpoints / name, "codes", (len(images), *shape), np.uint16)
        labels = ShardedArray(ctx.checkpoints / name, "labels", (len(images),), np.int64)
        before = meter.done
        for shard, rows in shared_shards(ctx, labels, stored):
            codes, found = read(rows)
            stored.write(shard, codes)
            labels.write(shard, found)
            meter.done = before + labels.finished_rows() * shape[0]
            ctx.progress(meter.done, meter.total)
        ctx.ranks.barrier()
        meter.done = before + len(images) * shape[0]
        if ctx.ranks.is_main:
            stored.finish(ctx.out / name)
            labels.finish(ctx.out / name)
            skipped += int((np.load(ctx.out / name / "labels.npy") == LEFT_OUT).sum())
    return {"skipped": skipped}


@dataclass
class _Meter:
    """How far a stage of several parts is."""

    total: int
    done: int = 0
    """By all ranks, as far as this one knows."""

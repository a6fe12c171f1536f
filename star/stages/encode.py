"""Stage `encode`: codes of the images' views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from star.data.codes import LEFT_OUT
from star.data.llamagen_codes import LlamaGenCodes
from star.data.pixels import Images
from star.data.sharded import ShardedArray
from star.data.views import center
from star.pipeline.dataset import NUM_VIEWS
from star.stages.context import Context, Pixels, Result, shared_shards, vq_of
from star.tokenizer.train import to_tensor

Source = Callable[[slice], tuple[np.ndarray, np.ndarray]]


def encode(ctx: Context) -> Result:
    """Encode all views of each training image and the centre crop of each test image, shard by shard, resumable."""
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
    """Progress of a stage that has several parts."""

    total: int
    done: int = 0
    """Views finished by all ranks, as far as this rank knows."""

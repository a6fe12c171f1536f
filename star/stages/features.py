"""Stage `features`: a frozen encoder's map of every view of the training images."""

from __future__ import annotations

import numpy as np

from star.data.sharded import ShardedArray
from star.evaluate.encoders import load_encoder
from star.pipeline.dataset import NUM_VIEWS
from star.stages.context import Context, Pixels, Result, shared_shards
from star.tokenizer.train import to_tensor


def features(ctx: Context) -> Result:
    """Write features.npy, (images, views, T, C) float16, the views as the stage `encode` has them; resumable by shards."""
    images, length, channels = Pixels(ctx, "train"), ctx.spec.sequence_length, ctx.spec.features.channels
    views = NUM_VIEWS * len(ctx.spec.data.crop_ranges)
    encoder = load_encoder(ctx.spec.features, ctx.spec.grid, ctx.device)
    stored = ShardedArray(ctx.checkpoints, "features", (len(images), views, length, channels), np.float16)
    per_pass = max(1, ctx.spec.resources.eval_batch_size // views)
    for shard, rows in shared_shards(ctx, stored):
        found = np.empty((rows.stop - rows.start, views, length, channels), np.float16)
        for first in range(rows.start, rows.stop, per_pass):
            some = slice(first, min(first + per_pass, rows.stop))
            cut = images.views(some)
            maps = encoder(to_tensor(cut.reshape(-1, *cut.shape[2:])))
            found[first - rows.start : some.stop - rows.start] = (
                maps.view(-1, views, length, channels).half().cpu().numpy()
            )
            ctx.progress(stored.finished_rows() + some.stop - rows.start, len(images))
        stored.write(shard, found)
    ctx.ranks.barrier()
    if ctx.ranks.is_main:
        stored.finish(ctx.out)
    return {}

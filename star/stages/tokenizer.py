"""Stage `tokenizer`: the image tokenizer, trained or given."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from star.checkpoint import Checkpoints
from star.data.pixels import Images
from star.data.views import center, ordered_views
from star.pipeline.dataset import NUM_VIEWS
from star.pipeline.tokenizer import REPORTED
from star.stages.context import Context, Pixels, Result, job_of, some_of
from star.stages.own_tokenizer import CheckedTokenizer, own_tokenizer
from star.tokenizer.load import load_vq
from star.tokenizer.train import reconstruction_report, to_tensor, train_vq
from star.weights import fit, load_state, save_weights


def tokenizer(ctx: Context) -> Result:
    """Train the tokenizer (resumable) or load given weights, and report how well it reconstructs test images."""
    spec, size = ctx.spec.tokenizer, ctx.spec.data.image_size
    train, test = Pixels(ctx, "train"), Pixels(ctx, "test")

    def batch_at(step: int, count: int = spec.batch_size) -> Images:
        rng = np.random.default_rng((spec.seed, step))
        rows = np.sort(rng.choice(len(train), count))
        return ordered_views(train.read(rows), ctx.spec.data)[
            np.arange(len(rows)), rng.integers(0, NUM_VIEWS, len(rows))
        ]

    own, given = own_tokenizer(ctx.spec, ctx.plugins), spec.weights_file
    if own is not None:
        model = own.to(ctx.device)
        if given:
            fit(model, load_state(Path(given)), Path(given), "tokenizer")
        else:
            model.fit(lambda step, count: to_tensor(batch_at(step, count)).to(ctx.device), job_of(ctx, spec.seed, {}))
        model.eval()
    elif given:
        model = load_vq(spec, ctx.spec.data.channels, Path(given)).to(ctx.device)
    else:
        resources = ctx.spec.resources
        kept = Checkpoints(ctx.checkpoints, resources.keep_checkpoints)
        model = train_vq(
            *(spec, ctx.spec.data.channels, batch_at, ctx.device, ctx.record, ctx.progress),
            *(kept, resources.checkpoint_every, ctx.stop),
        )
    save_weights(ctx.out / "vq.pt", model.state_dict())
    rows, per_pass = np.sort(some_of(ctx.spec, len(test), REPORTED)), ctx.spec.resources.eval_batch_size
    batches = [center(test.read(rows[i : i + per_pass]), size) for i in range(0, len(rows), per_pass)]
    seen = model if own is None else CheckedTokenizer(model, ctx.spec)
    return reconstruction_report(seen, spec.codebook_size, batches, ctx.device)

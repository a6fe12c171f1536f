"""Stage `generate`: images from the trained transformer, or given ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from star.data.image_sets import open_images
from star.data.pixels import Images
from star.data.sharded import ShardedArray
from star.errors import DataError
from star.model.sample import in_bfloat16, noise_for, sample
from star.stages.context import Context, Result, gpt_of, shared_shards, vq_of
from star.tokenizer.train import to_bytes


def generate(ctx: Context) -> Result:
    """Sample images of all classes from the trained model, shard by shard, or copy the images that the spec gives."""
    spec, classes, data = ctx.spec.generate, ctx.spec.data.num_classes, ctx.spec.data
    if spec.samples:
        return _given_samples(ctx, Path(spec.samples))
    batch, shown = ctx.spec.resources.sample_batch_size, ctx.spec.resources.eval_batch_size
    model, vq = gpt_of(ctx, spec.weights), vq_of(ctx)
    if spec.precision == "bf16":
        model = in_bfloat16(model)
    rng = np.random.default_rng((ctx.spec.seed, 5))
    labels = (
        np.arange(spec.num_images) % classes if spec.labels == "balanced" else rng.integers(0, classes, spec.num_images)
    )
    side = spec.image_size or data.image_size
    shape = (spec.num_images, side, side, data.channels)
    stored = ShardedArray(ctx.checkpoints, "images", shape, np.uint8)
    for shard, rows in shared_shards(ctx, stored):
        images = []
        for first in range(rows.start, rows.stop, batch):
            chunk = torch.from_numpy(labels[first : min(first + batch, rows.stop)]).to(ctx.device)
            noise = noise_for(ctx.spec.seed, first, len(chunk), ctx.spec.sequence_length).to(ctx.device)
            codes = sample(model, chunk, noise, spec)
            with torch.no_grad():
                images += [to_bytes(brought_to(vq.decode(part), side)) for part in codes.split(shown)]
            ctx.progress(stored.finished_rows() + first + len(chunk) - rows.start, spec.num_images)
        stored.write(shard, np.concatenate(images))
    ctx.ranks.barrier()
    if ctx.ranks.is_main:
        stored.finish(ctx.out)
        np.save(ctx.out / "labels.npy", labels)
        everything = np.load(ctx.out / "images.npy", mmap_mode="r")
        save_grid(ctx.out / "samples.png", everything, labels, classes)
    return {}


def brought_to(images: Tensor, side: int) -> Tensor:
    """Resize float images (B, C, H, W) to (B, C, side, side) as LlamaGen does 384 to 256: bicubic, no antialiasing."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bicubic", align_corners=False)


def _given_samples(ctx: Context, path: Path) -> Result:
    """Copy another model's images unchanged, (N, H, W, 3) bytes; rank 0 writes them."""
    given, size = open_images(path, ctx.threads), ctx.spec.resources.eval_batch_size
    side = ctx.spec.generate.image_size or ctx.spec.data.image_size
    if given.shape != (side, side):
        raise DataError(
            f"generate.samples: {path} has images of {given.shape[1]} x {given.shape[0]} pixels, the data's are "
            f"{side} x {side}; sets that are compared have one size: resize them first."
        )
    if ctx.ranks.is_main:
        shape = (len(given), *given.shape, 3)
        stored = np.lib.format.open_memmap(ctx.out / "images.npy", "w+", np.uint8, shape)
        for i, images in enumerate(given.batches(size)):
            stored[i * size : i * size + len(images)] = images
            ctx.progress(min((i + 1) * size, len(given)), len(given))
        stored.flush()
    ctx.ranks.barrier()
    return {}


def save_grid(path: Path, images: Images, labels: np.ndarray, classes: int, columns: int = 12, rows: int = 10) -> None:
    """Save a picture of samples: a row for each of the first `rows` classes, with at most `columns` images."""
    from PIL import Image

    shown = [images[labels == label][:columns] for label in range(min(classes, rows))]
    width = min(len(line) for line in shown)
    if width:
        grid = np.concatenate([np.concatenate(list(line[:width]), axis=1) for line in shown], axis=0)
        scale = max(1, 56 // images.shape[1])
        Image.fromarray(np.kron(grid, np.ones((scale, scale, 1), dtype=np.uint8)).squeeze()).save(path)

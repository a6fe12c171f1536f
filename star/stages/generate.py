"""Stage `generate`: images from the trained transformer, or given ones."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from star.data.image_sets import open_images
from star.data.pixels import Images
from star.data.sharded import ShardedArray
from star.errors import DataError
from star.model.sample import Sampler, in_bfloat16, noise_for
from star.stages.context import Context, Result, gpt_of, shared_shards, vq_of
from star.tokenizer.decode import image_decoder
from star.tokenizer.train import to_bytes
from star.tokenizer.vq import VQModel

Decode = Callable[[Tensor], Tensor]
"""From codes (B, T) to images (B, C, S, S)."""


def generate(ctx: Context) -> Result:
    """Sample images of all classes from the trained model, shard by shard, or copy the images that the spec gives."""
    spec, classes, data = ctx.spec.generate, ctx.spec.data.num_classes, ctx.spec.data
    if spec.samples:
        return _given_samples(ctx, Path(spec.samples))
    model = gpt_of(ctx, spec.weights)
    if spec.precision == "bf16":
        model = in_bfloat16(model)
    decode = _decoder(ctx)
    rng = np.random.default_rng((sampling_seed(ctx.spec.seed, spec.draw), 5))
    labels = (
        np.arange(spec.num_images) % classes if spec.labels == "balanced" else rng.integers(0, classes, spec.num_images)
    )
    side = spec.image_size or data.image_size
    shape = (spec.num_images, side, side, data.channels)
    stored = ShardedArray(ctx.checkpoints, "images", shape, np.uint8)
    sampler: Sampler | None = None
    written: Future[None] | None = None
    being_written = 0
    with ThreadPoolExecutor(1) as writer:  # a shard is written while the next is computed
        for shard, rows in shared_shards(ctx, stored):
            size = min(ctx.spec.resources.sample_batch_size, rows.stop - rows.start)
            sampler = sampler or Sampler(model, size, spec, ctx.spec.resources.compile)
            images = []
            for first in range(rows.start, rows.stop, sampler.batch):
                some = slice(first, min(first + sampler.batch, rows.stop))
                images.append(_sampled(ctx, sampler, decode, labels, some))
                waiting = 0 if written is None or written.done() else being_written
                ctx.progress(
                    min(stored.finished_rows() + waiting + some.stop - rows.start, spec.num_images), spec.num_images
                )
            if written is not None:
                written.result()
            written, being_written = writer.submit(stored.write, shard, np.concatenate(images)), rows.stop - rows.start
        if written is not None:
            written.result()
            ctx.progress(min(stored.finished_rows(), spec.num_images), spec.num_images)
    ctx.ranks.barrier()
    if ctx.ranks.is_main:
        stored.finish(ctx.out)
        np.save(ctx.out / "labels.npy", labels)
        everything = np.load(ctx.out / "images.npy", mmap_mode="r")
        save_grid(ctx.out / "samples.png", everything, labels, classes)
    return {}


def _sampled(ctx: Context, sampler: Sampler, decode: Decode, labels: np.ndarray, rows: slice) -> Images:
    """Images `rows` (B, S, S, C), sampled in one batch and decoded in smaller ones."""
    chosen = torch.from_numpy(labels[rows])
    if ctx.spec.is_unconditional:  # a class's row was never trained
        chosen = torch.full_like(chosen, ctx.spec.data.num_classes)
    seed = sampling_seed(ctx.spec.seed, ctx.spec.generate.draw)
    noise = noise_for(seed, rows.start, len(chosen), ctx.spec.sequence_length)
    codes = sampler(chosen.to(ctx.device), noise.to(ctx.device))
    side = ctx.spec.generate.image_size or ctx.spec.data.image_size
    parts = codes.split(ctx.spec.resources.eval_batch_size)
    return np.concatenate([to_bytes(brought_to(decode(part), side)) for part in parts])


def sampling_seed(seed: int, draw: int) -> int:
    """The seed of a run's samples: its own for draw 0, one that only this seed and draw give for the others."""
    return seed if draw == 0 else int(np.random.SeedSequence((seed, draw)).generate_state(1, np.uint64)[0])


def _decoder(ctx: Context) -> Decode:
    """The function from codes to images of the run's tokenizer, in the precision of the spec."""
    vq, resources = vq_of(ctx), ctx.spec.resources
    if not isinstance(vq, VQModel):
        return vq.decode
    return image_decoder(vq, ctx.spec.generate.decode_precision, resources.eval_batch_size, resources.compile)


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


def save_grid(path: Path, images: Images, labels: np.ndarray, classes: int) -> None:
    """Save a picture of samples: a row for each of the first ten classes, with at most twelve images."""
    from PIL import Image

    shown = [images[labels == label][:12] for label in range(min(classes, 10))]
    width = min(len(line) for line in shown)
    if width:
        grid = np.concatenate([np.concatenate(list(line[:width]), axis=1) for line in shown], axis=0)
        scale = max(1, 56 // images.shape[1])
        Image.fromarray(np.kron(grid, np.ones((scale, scale, 1), dtype=np.uint8)).squeeze()).save(path)

"""Stage `floor`: distances of held-out images and of their reconstructions to the reference images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from star.data.pixels import Images
from star.evaluate.reference_file import read_reference
from star.evaluate.ssim import WINDOW, ssim
from star.evaluate.statistics import Reference, Statistics, compare
from star.stages.context import Context, Pixels, Result, vq_of
from star.stages.generate import brought_to
from star.stages.scoring import extractor_of
from star.tokenizer.train import to_bytes, to_tensor


def floor(ctx: Context) -> Result:
    """Score held-out images and their reconstructions as samples are scored; PSNR and SSIM compare the two.

    No sampler can be expected to come nearer to the reference than its tokenizer's reconstructions do. Images are read
    batch by batch: no more than a batch is in memory. Images smaller than SSIM's window have no SSIM.
    """
    held_out = Pixels(ctx, "test")
    count = min(ctx.spec.floor_images, len(held_out))
    known = read_reference(ctx.inputs["reference"] / "reference.npz")
    assert known.pooled is not None
    reference, likeness = Reference(known.pooled, known.spatial), _Likeness()
    result = _distances(ctx, reference, "", _rebuilt(ctx, held_out, count, likeness), count)
    result |= _distances(ctx, reference, "real_", _real(ctx, held_out, count), count)
    return result | likeness.result()


def _distances(ctx: Context, reference: Reference, who: str, batches: Iterator[Images], count: int) -> Result:
    spec, before = ctx.spec.score, count if who else 0
    found = Statistics(count, 16, spec.is_split_size, ctx.device)
    tell = lambda done: ctx.progress(before + done, 2 * count)  # noqa: E731
    found.gather(extractor_of(ctx), batches, 0, spec.image_size, tell)
    values = compare(reference, found, spec.neighbours)
    return {f"{spec.extractor}/{who}{name}": value for name, value in values.items() if name.endswith("distance")}


def _real(ctx: Context, held_out: Pixels, count: int) -> Iterator[Images]:
    size = ctx.spec.resources.eval_batch_size
    for first in range(0, count, size):
        yield held_out.plain(slice(first, min(first + size, count)))


def _rebuilt(ctx: Context, held_out: Pixels, count: int, likeness: _Likeness) -> Iterator[Images]:
    """The images encoded and decoded, at the side of the samples."""
    model, side = vq_of(ctx), ctx.spec.generate.image_size or ctx.spec.data.image_size
    for images in _real(ctx, held_out, count):
        pixels = to_tensor(images)
        with torch.no_grad():
            decoded = brought_to(model.decode(model.encode(pixels.to(ctx.device))), side)
        rebuilt = to_bytes(decoded)
        likeness.add(rebuilt, images if images.shape[1] == side else to_bytes(brought_to(pixels, side)))
        yield rebuilt


@dataclass
class _Likeness:
    """PSNR and SSIM of images seen so far."""

    squared: float = 0.0
    values: int = 0
    similar: list[float] = field(default_factory=list)

    def add(self, made: Images, wanted: Images) -> None:
        """Take in two batches (B, H, W, C)."""
        self.squared += float(np.square(made.astype(np.float64) - wanted).sum()) / 255**2
        self.values += made.size
        if min(made.shape[1:3]) >= WINDOW:
            self.similar += ssim(_float(made), _float(wanted)).tolist()

    def result(self) -> Result:
        """`psnr`, and `ssim` where the images are large enough for its window."""
        error = self.squared / self.values
        found: Result = {"psnr": float(10 * np.log10(1 / error)) if error else float("inf")}
        return found | ({"ssim": float(np.mean(self.similar))} if self.similar else {})


def _float(images: Images) -> torch.Tensor:
    """uint8 (B, H, W, C) as float64 (B, C, H, W) in [0, 1]."""
    return torch.from_numpy(images.astype(np.float64) / 255).permute(0, 3, 1, 2)

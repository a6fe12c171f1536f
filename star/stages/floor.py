"""Stage `floor`: distances of held-out images, of their reconstructions and of their crops' to the reference images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from star.data.pixels import Images
from star.evaluate.reference_file import read_reference
from star.evaluate.ssim import WINDOW, ssim
from star.evaluate.statistics import Reference, Statistics, compare
from star.stages.context import Context, Pixels, Result, some_of, vq_of
from star.stages.generate import brought_to
from star.stages.own_tokenizer import CheckedTokenizer
from star.stages.scoring import extractor_of
from star.tokenizer.train import to_bytes, to_tensor
from star.tokenizer.vq import VQModel


def floor(ctx: Context) -> Result:
    """Score held-out images and their reconstructions as samples are scored; PSNR and SSIM compare the two.

    No sampler can be expected to come nearer to the reference than its tokenizer's reconstructions do. One that has
    learnt its training data to perfection draws crops, as training sees them, and not centred images: how far these are
    is scored too, of one view of each image, drawn by a fixed seed. Images are read batch by batch: no more than a batch
    is in memory. Images smaller than SSIM's window have no SSIM.
    """
    held_out = Pixels(ctx, "test")
    rows = np.sort(some_of(ctx.spec, len(held_out), ctx.spec.floor_images))
    count = len(rows)
    known = read_reference(ctx.inputs["reference"] / "reference.npz")
    assert known.pooled is not None
    reference, likeness = Reference(known.pooled, known.spatial), _Likeness()
    kinds = {
        "": _rebuilt(ctx, held_out, rows, likeness),
        "crops_": _crops(ctx, held_out, rows),
        "real_": _real(ctx, held_out, rows),
    }
    result: Result = {}
    for i, (who, batches) in enumerate(kinds.items()):
        tell = lambda done, before=i * count: ctx.progress(before + done, len(kinds) * count)  # noqa: E731
        result |= _distances(ctx, reference, who, batches, count, tell)
    return result | likeness.result()


def _distances(
    ctx: Context,
    reference: Reference,
    who: str,
    batches: Iterator[Images],
    count: int,
    tell: Callable[[int], None],
) -> Result:
    spec = ctx.spec.score
    found = Statistics(count, 16, spec.is_split_size, ctx.device)
    found.gather(extractor_of(ctx), batches, 0, spec.image_size, tell)
    values = compare(reference, found, spec.neighbours)
    return {f"{spec.extractor}/{who}{name}": value for name, value in values.items() if name.endswith("distance")}


def _parts(ctx: Context, rows: np.ndarray) -> Iterator[np.ndarray]:
    size = ctx.spec.resources.eval_batch_size
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _real(ctx: Context, held_out: Pixels, rows: np.ndarray) -> Iterator[Images]:
    for part in _parts(ctx, rows):
        yield held_out.plain(part)


def _rebuilt(ctx: Context, held_out: Pixels, rows: np.ndarray, likeness: _Likeness) -> Iterator[Images]:
    """The images encoded and decoded, at the side of the samples."""
    model, side = vq_of(ctx), _side(ctx)
    for images in _real(ctx, held_out, rows):
        rebuilt = _through(ctx, model, images)
        likeness.add(rebuilt, images if images.shape[1] == side else to_bytes(brought_to(to_tensor(images), side)))
        yield rebuilt


def _crops(ctx: Context, held_out: Pixels, rows: np.ndarray) -> Iterator[Images]:
    """One of the views of each image, encoded and decoded, at the side of the samples."""
    model, draws = vq_of(ctx), np.random.default_rng((0, 7))
    for part in _parts(ctx, rows):
        views = held_out.views(part)
        yield _through(ctx, model, views[np.arange(len(views)), draws.integers(views.shape[1], size=len(views))])


def _through(ctx: Context, model: VQModel | CheckedTokenizer, images: Images) -> Images:
    with torch.no_grad():
        decoded = model.decode(model.encode(to_tensor(images).to(ctx.device)))
        return to_bytes(brought_to(decoded, _side(ctx)))


def _side(ctx: Context) -> int:
    return ctx.spec.generate.image_size or ctx.spec.data.image_size


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

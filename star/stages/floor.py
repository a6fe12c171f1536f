"""Stage `floor`: distances of held-out images and of their reconstructions to the reference images."""

from __future__ import annotations

import numpy as np
import torch

from star.data.pixels import Images
from star.evaluate.reference_file import read_reference
from star.evaluate.ssim import ssim
from star.evaluate.statistics import Reference, Statistics, compare
from star.stages.context import Context, Pixels, Result, vq_of
from star.stages.generate import brought_to
from star.stages.scoring import gather
from star.tokenizer.train import to_bytes, to_tensor


def floor(ctx: Context) -> Result:
    """Score held-out images and their reconstructions as samples are scored; PSNR and SSIM compare the two.

    No sampler can be expected to come nearer to the reference than its tokenizer's reconstructions do.
    """
    spec, held_out = ctx.spec.score, Pixels(ctx, "test")
    count, size = min(ctx.spec.floor_images, len(held_out)), ctx.spec.resources.eval_batch_size
    real = np.concatenate([held_out.plain(slice(i, min(i + size, count))) for i in range(0, count, size)])
    rebuilt = np.concatenate([_rebuilt(ctx, real[i : i + size]) for i in range(0, count, size)])
    known = read_reference(ctx.inputs["reference"] / "reference.npz")
    assert known.pooled is not None
    result: Result = {}
    for who, images in (("", rebuilt), ("real_", real)):
        found = Statistics(count, 16, spec.is_split_size, ctx.device)
        gather(ctx, found, lambda rows, images=images: images[rows])  # type: ignore[misc]
        values = compare(Reference(known.pooled, known.spatial), found, spec.neighbours)
        result |= {
            f"{spec.extractor}/{who}{name}": value for name, value in values.items() if name.endswith("distance")
        }
    originals = _at_side(ctx, real)
    squared = float(np.square(rebuilt.astype(np.float64) - originals).mean()) / 255**2
    psnr = 10 * np.log10(1 / squared) if squared else np.inf
    similar = [ssim(_float(rebuilt[i : i + size]), _float(originals[i : i + size])) for i in range(0, count, size)]
    return result | {"psnr": float(psnr), "ssim": torch.cat(similar).mean().item()}


def _rebuilt(ctx: Context, images: Images) -> Images:
    """Images (B, S, S, C) encoded and decoded, at the side of the samples."""
    model = vq_of(ctx)
    with torch.no_grad():
        decoded = model.decode(model.encode(to_tensor(images).to(ctx.device)))
        return to_bytes(brought_to(decoded, ctx.spec.generate.image_size or ctx.spec.data.image_size))


def _at_side(ctx: Context, images: Images) -> Images:
    side = ctx.spec.generate.image_size or ctx.spec.data.image_size
    return images if images.shape[1] == side else to_bytes(brought_to(to_tensor(images), side))


def _float(images: Images) -> torch.Tensor:
    """uint8 (B, H, W, C) as float64 (B, C, H, W) in [0, 1]."""
    return torch.from_numpy(images.astype(np.float64) / 255).permute(0, 3, 1, 2)

"""Training the VQ model on images: reconstruction and commitment, with unused codes restarted from current latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from star.data.pixels import Images
from star.spec.images import TokenizerSpec
from star.tokenizer.vq import Quantized, VQModel


def to_tensor(images: Images) -> Tensor:
    """(B, H, W, C) bytes -> (B, C, H, W) in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1


def to_bytes(images: Tensor) -> Images:
    """(B, C, H, W) about [-1, 1] -> (B, H, W, C) bytes."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def train_vq(
    spec: TokenizerSpec,
    channels: int,
    batch_at: Callable[[int], Images],
    device: torch.device,
    record: Callable[[int, Mapping[str, float]], None],
    progress: Callable[[int, int], None],
) -> VQModel:
    """A trained model in evaluation mode.

    Args:
        batch_at: the images (B, S, S, C) of a step.
        record: receives (step, losses).
    """
    torch.manual_seed(spec.seed)
    model = VQModel(spec, channels).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.lr, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: vq_rate(step, spec.steps))
    used = torch.zeros(spec.codebook_size, dtype=torch.bool, device=device)
    for step in range(spec.steps):
        images = to_tensor(batch_at(step)).to(device)
        quantized = model.quantized(images)
        if spec.restart_every and step % spec.restart_every == 0 and step <= spec.steps * 3 // 4:
            restart_unused(model, used, quantized)
            used.zero_()
            quantized = model.quantized(images)
        used[quantized.codes.flatten()] = True
        losses = vq_losses(spec, model, images, quantized)
        losses["loss"].backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 10 == 0 or step + 1 == spec.steps:
            record(step + 1, {name: value.item() for name, value in losses.items()})
        progress(step + 1, spec.steps)
    return model.eval()


def vq_rate(step: int, total: int) -> float:
    """Factor of the learning rate: 5% warm-up, then a cosine to zero."""
    warmup = max(1, total // 20)
    return (
        (step + 1) / warmup
        if step < warmup
        else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    )


def vq_losses(spec: TokenizerSpec, model: VQModel, images: Tensor, quantized: Quantized) -> dict[str, Tensor]:
    """The loss and its parts. The decoder's gradient passes the bottleneck straight through."""
    latent, vectors, _ = quantized
    decoded = model.decode_vectors(latent + (vectors - latent).detach())
    reconstruction = F.l1_loss(decoded, images) if spec.reconstruction == "l1" else F.mse_loss(decoded, images)
    codebook = F.mse_loss(vectors, latent.detach())
    commitment = F.mse_loss(latent, vectors.detach())
    return {
        "loss": reconstruction + codebook + spec.commit_weight * commitment,
        "reconstruction_loss": reconstruction,
        "codebook_loss": codebook,
    }


@torch.no_grad()
def restart_unused(model: VQModel, used: Tensor, quantized: Quantized) -> None:
    """Move each code that no latent chose onto a latent of this batch, so that the codebook does not collapse.

    Latents are drawn in proportion to their squared error, as k-means++ draws its centres: new codes go where the old
    ones fit badly, not where there are many already (the background).
    """
    unused = (~used).nonzero()[:, 0]
    if not len(unused):
        return
    pool = quantized.latent.flatten(0, -2)
    error = (pool - quantized.vectors.flatten(0, -2)).square().sum(-1).cpu() + 1e-12
    chosen = torch.multinomial(error, len(unused), replacement=True).to(pool.device)
    model.quantize.embedding.weight[unused] = pool[chosen]


@torch.no_grad()
def reconstruction_report(model: VQModel, batches: list[Images], device: torch.device) -> dict[str, float]:
    """How well unseen images survive: mean square error and PSNR on the scale [0, 1], usage and perplexity of the codebook."""
    squared, pixels = 0.0, 0
    counts = torch.zeros(model.quantize.embedding.num_embeddings, dtype=torch.float64)
    for batch in batches:
        images = to_tensor(batch).to(device)
        codes = model.encode(images)
        difference = (model.decode(codes).clamp(-1, 1) - images) / 2
        squared += difference.double().square().sum().item()
        pixels += difference.numel()
        counts += torch.bincount(codes.flatten().cpu(), minlength=len(counts))
    share = counts[counts > 0] / counts.sum()
    mse = squared / pixels
    return {
        "mse": mse,
        "psnr": 10 * math.log10(1 / mse) if mse else math.inf,
        "codebook_usage": (counts > 0).double().mean().item(),
        "codebook_perplexity": math.exp(-(share * share.log()).sum().item()),
    }

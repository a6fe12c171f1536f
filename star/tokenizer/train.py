"""Training the VQ model on images: reconstruction and commitment, with unused codes restarted from current latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from star.checkpoint import Checkpoints
from star.data.pixels import Images
from star.errors import Stopped
from star.pipeline.config.tokenizer import TokenizerSpec
from star.tokenizer.vq import Quantized, VQModel


def to_tensor(images: Images) -> Tensor:
    """Convert uint8 images (B, H, W, C) to float32 (B, C, H, W) in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1


def to_bytes(images: Tensor) -> Images:
    """Convert images (B, C, H, W), clamped to [-1, 1], to uint8 (B, H, W, C)."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def train_vq(
    spec: TokenizerSpec,
    channels: int,
    batch_at: Callable[[int], Images],
    device: torch.device,
    record: Callable[[int, Mapping[str, float]], None],
    progress: Callable[[int, int], None],
    checkpoints: Checkpoints,
    every: int,
    stop: Callable[[], bool],
) -> VQModel:
    """Train a VQ model and return it in evaluation mode.

    Args:
        batch_at: step -> its images (B, S, S, C).
        record: receives (step, losses).
        checkpoints: where the state is saved after every `every` steps; training resumes from it bit for bit (CPU).
        stop: asked after each step.

    Raises:
        Stopped: `stop` returned true; the state is saved.
    """
    torch.manual_seed(spec.seed)
    model = VQModel(spec, channels).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.lr, betas=(0.9, 0.95), fused=True)
    used = torch.zeros(spec.codebook_size, dtype=torch.bool, device=device)
    first = _resumed(checkpoints, model, optimizer, used)
    for step in range(first, spec.steps):
        optimizer.param_groups[0]["lr"] = spec.lr * vq_rate(step, spec.steps)
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
        optimizer.zero_grad(set_to_none=True)
        done, stopped = step + 1, stop()
        if done % 10 == 0 or done == spec.steps:
            record(done, {name: value.item() for name, value in losses.items()})
        if done % every == 0 or stopped:
            # restarts of unused codes draw from the global generator
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "used": used}
            checkpoints.save(done, {**state, "random": torch.get_rng_state()})
        if stopped:
            checkpoints.wait()
            raise Stopped(f"the state after step {done} is saved")
        progress(done, spec.steps)
    checkpoints.wait()
    return model.eval()


def _resumed(checkpoints: Checkpoints, model: VQModel, optimizer: torch.optim.Optimizer, used: Tensor) -> int:
    """Load the newest checkpoint, if there is one; return the number of steps done."""
    newest = checkpoints.newest()
    if newest is None:
        return 0
    done, state = newest
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    used.copy_(state["used"])
    torch.set_rng_state(state["random"])
    return done


def vq_rate(step: int, total: int) -> float:
    """Factor of the learning rate: 5% warm-up, then a cosine to zero."""
    warmup = max(1, total // 20)
    return (
        (step + 1) / warmup
        if step < warmup
        else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    )


def vq_losses(spec: TokenizerSpec, model: VQModel, images: Tensor, quantized: Quantized) -> dict[str, Tensor]:
    """The loss and its parts. The decoder's gradient passes the quantizer by the straight-through estimator."""
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
    """Replace each code that no latent chose by a latent of this batch, so that the codebook does not collapse.

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
def reconstruction_report(
    model: Any, codebook_size: int, batches: list[Images], device: torch.device
) -> dict[str, float]:
    """Reconstruction of unseen images: mean squared error and PSNR on the scale [0, 1]; codebook usage, perplexity."""
    squared, pixels = 0.0, 0
    counts = torch.zeros(codebook_size, dtype=torch.float64)
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

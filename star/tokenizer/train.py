"""Training the VQ model on images as VQGAN does: pixels, codes, a perceptual loss and a patch discriminator's verdict.

Unused codes are restarted from current latents; the perceptual loss, the discriminator and the average are optional.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from star.checkpoint import Checkpoints
from star.data.pixels import Images
from star.errors import Stopped
from star.pipeline.config.tokenizer import TokenizerSpec
from star.tokenizer.discriminator import PatchDiscriminator, hinge
from star.tokenizer.perceptual import Perceptual
from star.tokenizer.vq import Quantized, VQModel

JUDGE_RATE = 0.25
"""The discriminator's learning rate over the tokenizer's."""
SMALL = 64
"""Images of smaller sides are judged in patches of 26 pixels in place of 54: the convolutions' receptive fields."""


def to_tensor(images: Images) -> Tensor:
    """Convert uint8 images (B, H, W, C) to float32 (B, C, H, W) in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1


def to_bytes(images: Tensor) -> Images:
    """Convert images (B, C, H, W), clamped to [-1, 1], to uint8 (B, H, W, C)."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


class _Parts:
    """Everything that training changes, and the networks that it asks.

    Args:
        image_size: side of the images in pixels.
    """

    def __init__(self, spec: TokenizerSpec, channels: int, image_size: int, device: torch.device) -> None:
        self.spec = spec
        self.model = VQModel(spec, channels).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=spec.lr, betas=(0.9, 0.95), fused=True)
        self.used = torch.zeros(spec.codebook_size, dtype=torch.bool, device=device)
        """Codes that were used since the last restart."""
        self.average = deepcopy(self.model).requires_grad_(False) if spec.ema_decay else None
        self.perceptual = Perceptual(spec.perceptual_size).to(device) if spec.perceptual_weight else None
        self.discriminator: PatchDiscriminator | None = None
        self.judge_optimizer: torch.optim.AdamW | None = None
        if spec.adversarial_weight:
            layers = 2 if image_size < SMALL else 3
            with torch.random.fork_rng(devices=[]):  # restarts draw the same with and without it
                self.discriminator = PatchDiscriminator(channels, spec.discriminator_channels, layers).to(device)
            self.judge_optimizer = torch.optim.AdamW(
                self.discriminator.parameters(), lr=spec.lr * JUDGE_RATE, betas=(0.5, 0.95), fused=True
            )

    def _kept(self) -> dict[str, Any]:
        kept = {"model": self.model, "optimizer": self.optimizer, "average": self.average}
        return kept | {"discriminator": self.discriminator, "judge_optimizer": self.judge_optimizer}

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint; restarts of unused codes draw from the global generator."""
        parts = {name: part.state_dict() for name, part in self._kept().items() if part is not None}
        return {**parts, "used": self.used, "random": torch.get_rng_state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint's state."""
        for name, part in self._kept().items():
            if part is not None:
                part.load_state_dict(state[name])
        self.used.copy_(state["used"])
        torch.set_rng_state(state["random"])

    def set_rate(self, factor: float) -> None:
        """Set the learning rates to a share of the spec's."""
        self.optimizer.param_groups[0]["lr"] = self.spec.lr * factor
        if self.judge_optimizer is not None:
            self.judge_optimizer.param_groups[0]["lr"] = self.spec.lr * JUDGE_RATE * factor

    def step(self, images: Tensor, step: int) -> dict[str, Tensor]:
        """One step of the tokenizer and, from its start on, of the discriminator; returns the losses."""
        spec = self.spec
        quantized = self.model.quantized(images)
        if spec.restart_every and step % spec.restart_every == 0 and step <= spec.steps * 3 // 4:
            restart_unused(self.model, self.used, quantized)
            self.used.zero_()
            quantized = self.model.quantized(images)
        self.used[quantized.codes.flatten()] = True
        losses, decoded = vq_losses(spec, self.model, images, quantized)
        if self.perceptual is not None:
            losses["perceptual_loss"] = self.perceptual(decoded, images)
            losses["loss"] = losses["loss"] + spec.perceptual_weight * losses["perceptual_loss"]
        judged = self.discriminator is not None and step >= spec.adversarial_start
        if judged:
            assert self.discriminator is not None
            losses["adversarial_loss"] = -self.discriminator.requires_grad_(False)(decoded).mean()
            losses["loss"] = losses["loss"] + spec.adversarial_weight * losses["adversarial_loss"]
        losses["loss"].backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if judged:
            losses["discriminator_loss"] = self._judge(images, decoded.detach())
        if self.average is not None:
            decay = min(spec.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return losses | _spread(quantized.codes, spec.codebook_size, self.used)

    def _judge(self, images: Tensor, decoded: Tensor) -> Tensor:
        assert self.discriminator is not None and self.judge_optimizer is not None
        self.discriminator.requires_grad_(True)
        loss = hinge(self.discriminator(images), self.discriminator(decoded))
        loss.backward()
        self.judge_optimizer.step()
        self.judge_optimizer.zero_grad(set_to_none=True)
        return loss


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
    """Train a VQ model and return it in evaluation mode: the average of its weights if the spec keeps one.

    Args:
        batch_at: step -> its images (B, S, S, C).
        record: receives (step, losses and use of the codebook).
        checkpoints: where the state is saved after every `every` steps; training resumes from it bit for bit (CPU).
        stop: asked after each step.

    Raises:
        Stopped: `stop` returned true; the state is saved.
    """
    torch.manual_seed(spec.seed)
    parts = _Parts(spec, channels, batch_at(0).shape[1], device)
    first, newest = 0, checkpoints.newest()
    if newest is not None:
        first = newest[0]
        parts.load(newest[1])
    for step in range(first, spec.steps):
        parts.set_rate(vq_rate(step, spec.steps))
        losses = parts.step(to_tensor(batch_at(step)).to(device), step)
        done, stopped = step + 1, stop()
        if done % 10 == 0 or done == spec.steps:
            record(done, {name: value.item() for name, value in losses.items()})
        if done % every == 0 or stopped:
            checkpoints.save(done, parts.state())
        if stopped:
            checkpoints.wait()
            raise Stopped(f"the state after step {done} is saved")
        progress(done, spec.steps)
    checkpoints.wait()
    return (parts.average or parts.model).eval()


def _spread(codes: Tensor, size: int, used: Tensor) -> dict[str, Tensor]:
    """Use of the codebook: the share of codes used since the last restart, and the perplexity of this batch's codes."""
    counts = torch.bincount(codes.flatten(), minlength=size).float()
    share = counts / counts.sum()
    return {"usage": used.float().mean(), "perplexity": torch.special.entr(share).sum().exp()}


def vq_rate(step: int, total: int) -> float:
    """Factor of the learning rate: 5% warm-up, then a cosine to zero."""
    warmup = max(1, total // 20)
    return (
        (step + 1) / warmup
        if step < warmup
        else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    )


def vq_losses(
    spec: TokenizerSpec, model: VQModel, images: Tensor, quantized: Quantized
) -> tuple[dict[str, Tensor], Tensor]:
    """The loss of pixels and codes with its parts, () each, and the decoded images (B, C, S, S).

    VQ-VAE's (van den Oord et al. 2017): loss = reconstruction_loss + codebook_loss + commit_weight * commitment, all means. The
    decoder's gradient passes the quantizer by the straight-through estimator.
    """
    latent, vectors, _ = quantized
    decoded = model.decode_vectors(latent + (vectors - latent).detach())
    reconstruction = F.l1_loss(decoded, images) if spec.reconstruction == "l1" else F.mse_loss(decoded, images)
    codebook = F.mse_loss(vectors, latent.detach())
    commitment = F.mse_loss(latent, vectors.detach())
    losses = {
        "loss": reconstruction + codebook + spec.commit_weight * commitment,
        "reconstruction_loss": reconstruction,
        "codebook_loss": codebook,
    }
    return losses, decoded


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
    """Reconstruction of unseen images, given in batches (B, S, S, C) uint8.

    Returns:
        `mse` on the scale [0, 1]; `psnr` in dB; `codebook_usage`, the share of codes used, 0 to 1; `codebook_perplexity`, 1 to
        `codebook_size`.
    """
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

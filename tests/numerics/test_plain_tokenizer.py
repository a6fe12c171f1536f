"""The tokenizer and its training equal ones that were written a second time, plainly and in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from star.checkpoint import Checkpoints
from star.errors import Stopped
from star.pipeline.config.tokenizer import TokenizerSpec
from star.tokenizer import train as tokenizer_train
from star.tokenizer.train import reconstruction_report, to_bytes, to_tensor, train_vq
from star.tokenizer.vq import Quantizer, VQModel
from tests.helpers import tiny

SIDE, STEPS = 12, 24
EVERY: dict[str, dict[str, Any]] = {
    "as usual": {},
    "not on the sphere, l1": {"l2_normalize": False, "reconstruction": "l1", "commit_weight": 1.3},
    # two codes may restart on one latent, and with few latents many do: rounding then decides which of them learns
    "three levels, no restarts": {"channel_mult": [1, 2, 1], "res_blocks": 2, "restart_every": 0},
}


def spec_of(name: str) -> TokenizerSpec:
    usual = {"channels": 4, "channel_mult": [1, 2], "z_channels": 6, "codebook_size": 24, "steps": STEPS, "lr": 0.01}
    usual |= {"restart_every": 4, "seed": 5}
    return TokenizerSpec.model_validate(tiny().tokenizer.model_dump() | usual | EVERY[name])


def batch_at(step: int) -> np.ndarray:
    return np.random.default_rng((7, step)).integers(0, 256, (5, SIDE, SIDE, 1), dtype=np.uint8)


# the model, from its weights


class Plain:
    """Reads the weights by their names; each method is a layer of LlamaGen's VQ model."""

    def __init__(self, state: dict[str, Tensor], spec: TokenizerSpec) -> None:
        self.state, self.spec = state, spec

    def conv(self, x: Tensor, name: str, **how: int) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **how)

    def norm(self, x: Tensor, name: str) -> Tensor:
        groups = min(32, x.shape[1])
        parts = x.reshape(x.shape[0], groups, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()
        weight, bias = (self.state[f"{name}.{one}"][:, None, None] for one in ("weight", "bias"))
        return parts.reshape(x.shape) * weight + bias

    def swish(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    def residual(self, x: Tensor, name: str) -> Tensor:
        y = self.conv(self.swish(self.norm(x, f"{name}.norm1")), f"{name}.conv1", padding=1)
        y = self.conv(self.swish(self.norm(y, f"{name}.norm2")), f"{name}.conv2", padding=1)
        return y + (self.conv(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in self.state else x)

    def attention(self, x: Tensor, name: str) -> Tensor:
        y = self.norm(x, f"{name}.norm")
        query, key, value = (self.conv(y, f"{name}.{one}").flatten(2) for one in "qkv")  # (B, C, places)
        weights = (query.transpose(1, 2) @ key / math.sqrt(x.shape[1])).softmax(2)
        return x + self.conv((value @ weights.transpose(1, 2)).view_as(x), f"{name}.proj_out")

    def middle(self, x: Tensor, name: str) -> Tensor:
        return self.residual(self.attention(self.residual(x, f"{name}.mid.0"), f"{name}.mid.1"), f"{name}.mid.2")

    def levels(self, x: Tensor, name: str, blocks: int, lowest: int) -> Tensor:
        for level in range(len(self.spec.channel_mult)):
            for block in range(blocks):
                x = self.residual(x, f"{name}.conv_blocks.{level}.res.{block}")
                x = self.attention(x, f"{name}.conv_blocks.{level}.attn.{block}") if level == lowest else x
            if level + 1 < len(self.spec.channel_mult) and name == "encoder":
                x = self.conv(F.pad(x, (0, 1, 0, 1)), f"{name}.conv_blocks.{level}.downsample.conv", stride=2)
            elif level + 1 < len(self.spec.channel_mult):
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv(x, f"{name}.conv_blocks.{level}.upsample.conv", padding=1)
        return x

    def unit(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True) if self.spec.l2_normalize else x

    def latents(self, images: Tensor) -> Tensor:
        """(B, g, g, codebook_dim)."""
        x = self.conv(images, "encoder.conv_in", padding=1)
        x = self.levels(x, "encoder", self.spec.res_blocks, len(self.spec.channel_mult) - 1)
        x = self.swish(self.norm(self.middle(x, "encoder"), "encoder.norm_out"))
        return self.unit(self.conv(self.conv(x, "encoder.conv_out", padding=1), "quant_conv").permute(0, 2, 3, 1))

    def nearest(self, latents: Tensor) -> Tensor:
        book = self.unit(self.state["quantize.embedding.weight"])
        return (latents[..., None, :] - book).square().sum(-1).argmin(-1)

    def vectors(self, codes: Tensor) -> Tensor:
        return self.unit(self.state["quantize.embedding.weight"])[codes]

    def image(self, vectors: Tensor) -> Tensor:
        x = self.conv(vectors.permute(0, 3, 1, 2), "post_quant_conv")
        x = self.middle(self.conv(x, "decoder.conv_in", padding=1), "decoder")
        x = self.levels(x, "decoder", self.spec.res_blocks + 1, 0)
        return self.conv(self.swish(self.norm(x, "decoder.norm_out")), "decoder.conv_out", padding=1)


# the training


def plainly(spec: TokenizerSpec) -> tuple[dict[str, Tensor], dict[int, dict[str, float]]]:
    """Weights after all steps, and the losses of each."""
    torch.manual_seed(spec.seed)
    state = {name: value.detach().clone() for name, value in VQModel(spec, 1).state_dict().items()}
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in state.items()}
    used, recorded, book = set[int](), {}, "quantize.embedding.weight"
    for step in range(spec.steps):
        for value in state.values():
            value.requires_grad_(True)
        model = Plain(state, spec)
        images = torch.from_numpy(batch_at(step).astype(np.float64)).permute(0, 3, 1, 2) / 127.5 - 1
        latents = model.latents(images)
        if spec.restart_every and step % spec.restart_every == 0 and step <= 0.75 * spec.steps:
            unused = [code for code in range(spec.codebook_size) if code not in used]
            if unused:
                error = (latents - model.vectors(model.nearest(latents))).square().sum(-1).flatten().detach()
                chosen = torch.multinomial(error + 1e-12, len(unused), replacement=True)
                with torch.no_grad():
                    state[book][unused] = latents.flatten(0, 2)[chosen]
            used.clear()
        codes = model.nearest(latents)
        used.update(codes.flatten().tolist())
        vectors = model.vectors(codes)
        straight = latents + (vectors - latents).detach()
        apart = model.image(straight) - images
        reconstruction = apart.abs().mean() if spec.reconstruction == "l1" else apart.square().mean()
        codebook = (vectors - latents.detach()).square().mean()
        loss = reconstruction + codebook + spec.commit_weight * (latents - vectors.detach()).square().mean()
        gradients = torch.autograd.grad(loss, list(state.values()))
        recorded[step + 1] = {
            "loss": loss.item(),
            "reconstruction_loss": reconstruction.item(),
            "codebook_loss": codebook.item(),
        }
        with torch.no_grad():
            for (name, value), gradient in zip(state.items(), gradients, strict=True):
                adamw(value, gradient, *moments[name], spec.lr * falling(step, spec.steps), step + 1)
    return state, recorded


def falling(step: int, steps: int) -> float:
    warmup = max(1, int(0.05 * steps))
    return (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def adamw(value: Tensor, gradient: Tensor, first: Tensor, second: Tensor, lr: float, count: int) -> None:
    value -= lr * 0.01 * value
    first += 0.1 * (gradient - first)
    second += 0.05 * (gradient**2 - second)
    value -= lr * (first / (1 - 0.9**count)) / ((second / (1 - 0.95**count)).sqrt() + 1e-8)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    exact = lambda images: torch.from_numpy(images.astype(np.float64)).permute(0, 3, 1, 2) / 127.5 - 1  # noqa: E731
    monkeypatch.setattr(tokenizer_train, "to_tensor", exact)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trained(
    spec: TokenizerSpec, folder: Path, stop: Callable[[int], bool] = lambda step: False
) -> tuple[VQModel, dict[int, dict[str, float]], list[tuple[int, int]]]:
    recorded: dict[int, dict[str, float]] = {}
    seen: list[tuple[int, int]] = []
    asked = [0]

    def stopped() -> bool:
        asked[0] += 1
        return stop(asked[0])

    model = train_vq(
        *(spec, 1, batch_at, torch.device("cpu")),
        *(lambda step, losses: recorded.update({step: dict(losses)}), lambda done, total: seen.append((done, total))),
        *(Checkpoints(folder, 2), 5, stopped),
    )
    return model, recorded, seen


@pytest.mark.parametrize("name", EVERY)
def test_training_equals_the_plain_one(name: str, tmp_path: Path, double: None) -> None:
    spec = spec_of(name)
    model, recorded, seen = trained(spec, tmp_path)
    state, expected = plainly(spec)
    assert sorted(recorded) == [10, 20, STEPS] and seen == [(step, STEPS) for step in range(1, STEPS + 1)]
    for step, losses in recorded.items():
        assert losses.pop("usage") <= 1 and losses.pop("perplexity") <= spec.codebook_size
        assert losses == pytest.approx(expected[step], rel=1e-8), step
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key].detach(), rtol=1e-6, atol=1e-8, msg=key)
    images = torch.rand(3, 1, SIDE, SIDE) * 2 - 1
    plain = Plain({key: value.detach() for key, value in state.items()}, spec)
    codes = plain.nearest(plain.latents(images))
    assert torch.equal(model.encode(images), codes.flatten(1)) and not model.training
    torch.testing.assert_close(model.decode(codes.flatten(1)), plain.image(plain.vectors(codes)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("stops", [[3], [5, 9], [1, 1, 12, 10]], ids=str)
def test_a_stopped_training_goes_on_bit_for_bit(stops: list[int], tmp_path: Path) -> None:
    """Also between a restart, whose draws come from the global generator, and the next; and whatever was drawn meanwhile."""
    spec = spec_of("as usual")
    whole, recorded, _ = trained(spec, tmp_path / "whole")
    again: dict[int, dict[str, float]] = {}
    done = 0
    for steps in stops:
        with pytest.raises(Stopped, match=f"the state after step {done + steps} is saved"):
            trained(spec, tmp_path / "parts", lambda asked, steps=steps: asked == steps)  # type: ignore[misc]
        done += steps
        newest = Checkpoints(tmp_path / "parts", 2).newest()
        assert newest is not None and newest[0] == done
        torch.manual_seed(done)
    model, again, seen = trained(spec, tmp_path / "parts")
    assert all(recorded[step] == losses for step, losses in again.items()) and len(seen) == STEPS - done
    for key, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_checkpoints_are_written_now_and_then_and_the_newest_kept(tmp_path: Path) -> None:
    trained(spec_of("as usual"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000015.pt", "step-000000020.pt"]


def test_bytes_and_numbers() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    numbers = to_tensor(every)
    assert numbers.shape == (1, 1, 16, 16) and (numbers.min(), numbers.max()) == (-1, 1)
    assert np.array_equal(to_bytes(numbers), every) and np.array_equal(to_bytes(numbers + 0.003), every)
    assert to_bytes(torch.tensor([[[[-3.0, 2.0]]]])).ravel().tolist() == [0, 255]
    colours = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    assert np.array_equal(to_bytes(to_tensor(colours)), colours)


class Mirror:
    """A tokenizer that returns what it was given, times a factor, and always the same code."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.quantize = SimpleNamespace(embedding=SimpleNamespace(num_embeddings=5))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self.images = images
        return torch.zeros(len(images), 4, dtype=torch.long)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.images * self.factor


def test_the_report_at_its_ends() -> None:
    """Nothing lost; and colours beyond black and white, which an image cannot have."""
    images = np.full((3, 4, 4, 1), 255, dtype=np.uint8)
    images[:, :2] = 0
    for factor in (1.0, 1.7):
        found = reconstruction_report(Mirror(factor), 5, [images], torch.device("cpu"))
        assert found == {"mse": 0.0, "psnr": math.inf, "codebook_usage": 0.2, "codebook_perplexity": 1.0}


def test_codes_begin_spread_evenly_about_zero() -> None:
    spec = spec_of("as usual").model_copy(update={"codebook_size": 500, "l2_normalize": False})
    torch.manual_seed(0)
    drawn = Quantizer(spec).embedding.weight.detach() * 500
    assert drawn.abs().max() <= 1 and drawn.min() < -0.99 and drawn.max() > 0.99 and abs(drawn.mean()) < 0.02


@pytest.mark.parametrize("widths", [[1, 2, 3], [3, 1, 2], [2, 2]], ids=str)
def test_every_shape_of_network_makes_images(widths: list[int]) -> None:
    spec = spec_of("as usual").model_copy(update={"channels": 32, "channel_mult": widths})
    model, side = VQModel(spec, 3).eval(), 2 ** (len(widths) + 1)
    with torch.no_grad():
        codes = model.encode(torch.zeros(2, 3, side, side))
        assert codes.shape == (2, 16) and model.decode(codes).shape == (2, 3, side, side)


def test_the_report_of_reconstructions() -> None:
    """By its formulas, in one pass over unequal batches."""
    torch.manual_seed(0)
    model = VQModel(spec_of("as usual"), 1).eval()
    images = np.concatenate([batch_at(step) for step in range(3)])
    found = reconstruction_report(
        model, model.quantize.embedding.num_embeddings, [images[:4], images[4:15]], torch.device("cpu")
    )
    with torch.no_grad():
        codes = model.encode(to_tensor(images))
        made = (model.decode(codes).clamp(-1, 1).double() + 1) / 2
    mse = float((made - torch.from_numpy(images / 255.0).permute(0, 3, 1, 2)).square().mean())
    share = torch.bincount(codes.flatten(), minlength=24).double() / codes.numel()
    entropy = -sum(float(p) * math.log(float(p)) for p in share if p > 0)
    assert found == pytest.approx(
        {
            "mse": mse,
            "psnr": -10 * math.log10(mse),
            "codebook_usage": float((share > 0).double().mean()),
            "codebook_perplexity": math.exp(entropy),
        },
        rel=1e-5,
    )

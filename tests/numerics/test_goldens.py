"""The architectures compute what LlamaGen's own code computes, for weights that anybody can draw again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from star.model.gpt import GPT
from star.model.sample import sample
from star.pipeline.config.generate import GenerateSpec
from star.pipeline.config.model import ModelSpec
from star.pipeline.config.tokenizer import TokenizerSpec
from star.tokenizer.load import BUFFER
from star.tokenizer.vq import VQModel

GOLDEN = Path(__file__).parent / "golden"


def drawn_weights(shapes: Mapping[str, tuple[int, ...]], scale: float) -> dict[str, torch.Tensor]:
    """One generator, keys in sorted order; a 1-D weight is near one, everything else near zero."""
    generator = np.random.RandomState(0)
    state = {}
    for key in sorted(shapes):
        noise = generator.standard_normal(shapes[key]).astype(np.float32)
        is_norm = len(shapes[key]) == 1 and key.endswith(".weight")
        state[key] = torch.from_numpy(1 + 0.1 * noise if is_norm else scale * noise)
    return state


@pytest.fixture(scope="module")
def gpt() -> GPT:
    model = GPT(ModelSpec(dim=64, n_layer=3, n_head=4, ffn_multiple_of=32), vocab_size=128, num_classes=10, grid=4)
    model.load_state_dict(drawn_weights({key: tuple(value.shape) for key, value in model.state_dict().items()}, 0.05))
    return model.eval()


@pytest.fixture(scope="module")
def golden() -> Mapping[str, np.ndarray]:
    return dict(np.load(GOLDEN / "gpt_tiny_golden.npz"))


def test_gpt_logits_and_hidden_states(gpt: GPT, golden: Mapping[str, np.ndarray]) -> None:
    codes, labels = torch.from_numpy(golden["codes"]).long(), torch.from_numpy(golden["labels"]).long()
    with torch.no_grad():
        torch.testing.assert_close(gpt(codes, labels), torch.from_numpy(golden["logits"]), atol=1e-4, rtol=0)
        for layer in (1, 2, 3):
            expected = torch.from_numpy(golden["hidden_after_block"][layer - 1])
            torch.testing.assert_close(gpt.hidden_at(codes, labels, layer), expected, atol=1e-4, rtol=0)
            layer_features = gpt.features(codes, labels, layers=[layer]).layer_features
            torch.testing.assert_close(layer_features[layer], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1, 2])
def test_gpt_greedy_samples(gpt: GPT, golden: Mapping[str, np.ndarray], scale: int) -> None:
    labels = torch.tensor([0, 3, 9])
    greedy = GenerateSpec(cfg_scale=float(scale), top_k=1)
    noise = torch.zeros(3, 16, dtype=torch.float64)
    assert sample(gpt, labels, noise, greedy).tolist() == golden[f"greedy_cfg_{scale}"].tolist()
    alone = torch.cat([sample(gpt, labels[i : i + 1], noise[:1], greedy) for i in range(3)])
    assert alone.tolist() == golden[f"greedy_cfg_{scale}"].tolist()


def vq16() -> tuple[VQModel, torch.Tensor]:
    """The golden tokenizer, and the images that it was shown."""
    model = VQModel(TokenizerSpec(), image_channels=3).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()} | {BUFFER: (65536,)}
    state = drawn_weights(shapes, 0.03)
    del state[BUFFER]
    model.load_state_dict(state)
    return model, torch.from_numpy(np.random.RandomState(2).uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32))


def test_vq16_codes_and_reconstruction() -> None:
    golden = np.load(GOLDEN / "vq16_golden.npz")
    model, images = vq16()
    with torch.no_grad():
        _, vectors, codes = model.quantized(images)
        decoded = model.decode(model.encode(images))
    assert codes.flatten(1).tolist() == golden["codes"].tolist()
    torch.testing.assert_close(vectors.permute(0, 3, 1, 2), torch.from_numpy(golden["quantized"]), atol=1e-4, rtol=0)
    torch.testing.assert_close(decoded[:, :, ::8, ::8], torch.from_numpy(golden["reconstruction"]), atol=1e-4, rtol=0)


def test_parameter_counts_of_the_family() -> None:
    counts = {(12, 12, 768): 110_888_448, (24, 16, 1024): 342_910_976, (36, 20, 1280): 774_699_520}
    for (n_layer, n_head, dim), expected in counts.items():
        with torch.device("meta"):
            model = GPT(ModelSpec(n_layer=n_layer, n_head=n_head, dim=dim), 16384, 1000, grid=16)
        assert sum(parameter.numel() for parameter in model.parameters()) == expected

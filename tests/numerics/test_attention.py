"""Attention is the model's own; its numbers are those that can be counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from star.evaluate.attention import SHARES, _Geometry, _shares, attention_weights, measure_attention, uniform
from star.model.gpt import GPT
from star.pipeline.config.model import ModelSpec

GRID = 3


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(ModelSpec(n_layer=2, n_head=2, dim=16, ffn_multiple_of=16, init_std=0.5), 32, 5, GRID).eval()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(32, (6, GRID**2), generator=generator), torch.randint(5, (6,), generator=generator)


@torch.no_grad()
def test_the_weights_give_the_models_own_attention(model: GPT, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    x = model.embed(*batch)
    for block, weights in zip(model.layers, attention_weights(model, *batch), strict=True):
        mixed = weights @ block.enter(x, model.rope)[2]
        assert weights.triu(1).abs().max() == 0
        own = block(x, model.rope, None)
        torch.testing.assert_close(block.leave(x, mixed), own, atol=1e-5, rtol=1e-4)
        x = own


def test_shares_counted_by_hand() -> None:
    """Input 5 is code x_5 in cell 4, the centre of a 3 x 3 grid; input j lies in cell j - 1."""
    weights = torch.zeros(9, 9)
    weights[:, 0] = 1
    weights[5] = torch.tensor([0.4, 0.1, 0.0, 0.2, 0.0, 0.3, 0.0, 0.0, 0.0])
    weights[3] = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    found = _shares(weights, _Geometry(GRID, torch.device("cpu")))
    assert found["condition_share"][5] == pytest.approx(0.4)
    assert found["self_share"][5] == pytest.approx(0.3)
    assert found["neighbour_share"][5] == pytest.approx(0.3)  # cells 0 and 2 touch the centre at corners
    assert found["distance"][5] == pytest.approx(0.3 * math.sqrt(2) / 0.6)
    # input 3 is cell 2, the corner at the right; cell 0 is two columns away
    assert (found["neighbour_share"][3].item(), found["distance"][3].item()) == (0, pytest.approx(2))
    assert found["distance"][0] == 0 and found["condition_share"][0] == 1


def test_a_head_that_looks_at_the_condition_alone_has_its_distance() -> None:
    """Float32 rounds 1 - 1e-9 to 1; what is left for the cells still says where they lie."""
    weights = torch.zeros(9, 9)
    weights[:, 0] = 1
    weights[8, 1:9] = torch.tensor([1e-9, 0, 0, 0, 0, 0, 0, 0])  # cell 7 looks at cell 0: two rows, one column away
    found = _shares(weights, _Geometry(GRID, torch.device("cpu")))
    assert found["distance"][8] == pytest.approx(5**0.5)


def test_uniform_attention() -> None:
    shares = uniform(GRID)
    torch.testing.assert_close(shares["condition_share"], 1 / torch.arange(1, 10, dtype=torch.float64))
    assert shares["distance"][2] == pytest.approx(0.5)  # cells 0 and 1, one column apart


def test_the_report(model: GPT, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    codes, labels = batch
    found = measure_attention(model, [(codes[:4], labels[:4]), (codes[4:], labels[4:])], [3, 9], shown=5)
    assert found.maps.shape == (5, 2, 2, 2, 9)
    torch.testing.assert_close(found.maps.sum(-1), torch.ones(5, 2, 2, 2))
    with torch.no_grad():
        every = torch.stack([*attention_weights(model, codes, labels)], dim=1)
    torch.testing.assert_close(found.maps, every[:5, :, :, [2, 8]])
    for name in SHARES:
        expected = _shares(every, _Geometry(GRID, torch.device("cpu")))[name].mean(0)
        torch.testing.assert_close(found.numbers[name], expected, atol=1e-6, rtol=1e-5)
        assert found.average(name, by="layer").shape == (2,) and found.average(name, by="position").shape == (9,)
        torch.testing.assert_close(found.average(name), found.numbers[name][..., 1:].mean())
        torch.testing.assert_close(found.average(name, layer=-1), found.numbers[name][-1, :, 1:].mean())
    total = sum(found.numbers[name] for name in SHARES[1:])
    assert total.max() <= 1 + 1e-6

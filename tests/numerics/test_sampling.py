"""Sampling: cached equals uncached, the batch does not matter, the filters keep what they should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from star.model.gpt import GPT
from star.model.sample import Decoder, draw, filtered, noise_for, sample
from star.spec.sections import GenerateSpec, ModelSpec


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(ModelSpec(n_layer=2, n_head=2, dim=16, ffn_multiple_of=16), vocab_size=12, num_classes=5, grid=4).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def test_cached_logits_equal_the_uncached_forward(model: GPT) -> None:
    codes, labels = torch.randint(12, (3, 16)), torch.tensor([0, 2, 5])
    with torch.no_grad():
        decoder, embedded = Decoder(model, 3), model.embed(codes, labels)
        steps = [decoder.logits(embedded[:, t : t + 1]) for t in range(16)]
        torch.testing.assert_close(torch.stack(steps, dim=1), model(codes, labels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale, until", [(1.0, None), (2.5, None), (2.5, 7)])
def test_an_image_does_not_depend_on_its_batch(model: GPT, scale: float, until: int | None) -> None:
    spec = GenerateSpec(cfg_scale=scale, cfg_until=until)
    labels = torch.arange(6) % 5
    whole = sample(model, labels, noise_for(3, 0, 6, 16), spec)
    parts = [
        sample(model, labels[i : i + size], noise_for(3, i, size, 16), spec) for i, size in ((0, 1), (1, 3), (4, 2))
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, sample(model, labels, noise_for(4, 0, 6, 16), spec))


def test_samples_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.2, 0.0, 0.3])
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = draw(probabilities.log().expand(20_000, -1), uniform)
    shares = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(shares, probabilities, atol=0.015, rtol=0)
    assert shares[0] == 0 and shares[3] == 0


@given(st.integers(0, 12), st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_filters_keep_the_most_likely(top_k: int, top_p: float) -> None:
    logits = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    kept = filtered(logits, top_k, top_p).isfinite()
    assert (kept.sum(1) >= 1).all()
    assert top_k == 0 or (kept.sum(1) <= top_k).all()
    for row, keep in zip(logits, kept, strict=True):
        assert row[keep].min() >= row[~keep].max() if (~keep).any() else True
        mass = filtered(row[None], top_k, 1.0).softmax(-1)[0]
        assert mass[keep].sum() >= top_p - 1e-6
        assert mass[keep].sum() - mass[keep].min() < top_p + 1e-6

"""Sampling: cached equals uncached, the batch does not matter, the filters keep what they should."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from star.evaluate.features import resized
from star.model.gpt import GPT
from star.model.sample import Decoder, Sampler, draw, filtered, in_bfloat16, noise_for, sample
from star.pipeline.config.generate import GenerateSpec
from star.pipeline.config.model import ModelSpec
from star.pipeline.config.tokenizer import TokenizerSpec
from star.stages.generate import brought_to
from star.tokenizer.decode import image_decoder
from star.tokenizer.vq import VQModel


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


def test_places_to_come_are_hidden(model: GPT) -> None:
    """A GPU reads the cache in steps of many places; those that are not filled yet change nothing."""
    codes, labels = torch.randint(12, (3, 16)), torch.tensor([0, 2, 5])
    with torch.no_grad():
        decoder, embedded = Decoder(model, 3), model.embed(codes, labels)
        decoder.places = torch.arange(16)
        steps = [decoder.logits(embedded[:, t : t + 1]) for t in range(16)]
        torch.testing.assert_close(torch.stack(steps, dim=1), model(codes, labels), atol=1e-5, rtol=1e-5)


def test_a_sampler_gives_each_batch_its_codes(model: GPT) -> None:
    spec, labels, noise = GenerateSpec(cfg_scale=2.0), torch.arange(6) % 5, noise_for(3, 0, 6, 16)
    sampler = Sampler(model, 4, spec)
    found = [sampler(labels[rows], noise[rows]) for rows in (slice(0, 4), slice(4, 6))]
    assert torch.equal(torch.cat(found), sample(model, labels, noise, spec))


@pytest.mark.parametrize(("precision", "most"), [("fp32", 0.0), ("tf32", 0.0), ("bf16", 0.05)])
def test_decoding_in_each_precision(precision: str, most: float) -> None:
    torch.manual_seed(0)
    spec = TokenizerSpec(channels=32, channel_mult=[1, 2], res_blocks=1, codebook_size=64)
    vq, codes = VQModel(spec, 3).eval(), torch.randint(64, (5, 16))
    with torch.no_grad():
        exact = vq.decode(codes)
    found = image_decoder(vq, precision, 8)(codes)
    assert found.dtype == torch.float32 and found.shape == exact.shape == (5, 3, 8, 8)
    apart = ((found - exact).norm() / exact.norm()).item()
    assert 0.1 * most <= apart <= most


def test_a_compiled_decoder_sees_batches_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another size would be compiled again; what is filled up is cut off again."""
    torch.manual_seed(0)
    spec = TokenizerSpec(channels=32, channel_mult=[1, 2], res_blocks=1, codebook_size=64)
    vq, codes, sizes = VQModel(spec, 3).eval(), torch.randint(64, (5, 16)), []

    def compiled(decode: Callable[[torch.Tensor], torch.Tensor], **given: object) -> Callable[..., torch.Tensor]:
        return lambda whole: sizes.append(len(whole)) or decode(whole)  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", compiled)
    found = image_decoder(vq, "fp32", 8, compiled=True)(codes)
    assert sizes == [8]
    torch.testing.assert_close(found, image_decoder(vq, "fp32", 8)(codes), atol=1e-5, rtol=1e-5)


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


def llamagen_filter(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Which codes LlamaGen keeps: those before which no more than top_p lies, the sum taken in the order of the logits."""
    ordered, order = torch.sort(logits, descending=True)
    removed = torch.softmax(ordered, dim=-1).cumsum(-1) > top_p
    removed[..., 1:] = removed[..., :-1].clone()
    removed[..., 0] = False
    return ~removed.scatter(1, order, removed)


def test_top_p_keeps_what_llamagen_keeps_at_a_tie() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    assert filtered(logits, 0, 0.5).isfinite().tolist() == [[True, True, False, False]]
    assert (
        filtered(logits, 0, 0.75).isfinite().tolist()
        == llamagen_filter(logits, 0.75).tolist()
        == [[True, True, True, False]]
    )
    many = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    for top_p in (0.1, 0.5, 0.9, 0.99):
        assert torch.equal(filtered(many, 0, top_p).isfinite(), llamagen_filter(many, top_p))


def test_sampling_in_bfloat16(model: GPT) -> None:
    """The weights are rounded, the angles are not, and the codes are still codes."""
    rounded = in_bfloat16(copy.deepcopy(model))
    assert rounded.output.weight.dtype == torch.bfloat16 and torch.equal(rounded.rope, model.rope)
    labels, noise = torch.arange(6) % 5, noise_for(3, 0, 6, 16)
    codes = [sample(one, labels, noise, GenerateSpec(cfg_scale=2.0)) for one in (model, rounded)]
    assert codes[1].shape == codes[0].shape and (codes[1] == codes[0]).float().mean() > 0.5
    with torch.no_grad():
        embedded = rounded.cls_embedding(labels)
        assert Decoder(rounded, 6).logits(embedded).dtype == torch.float32, (
            "guidance and filters in fp32, as LlamaGen's"
        )


def test_a_temperature_near_zero_is_greedy(model: GPT) -> None:
    labels, noise = torch.arange(6) % 5, noise_for(3, 0, 6, 16)
    cold = [sample(model, labels, noise, GenerateSpec(temperature=value)) for value in (1e-5, 1e-39, 5e-324)]
    greedy = sample(model, labels, noise, GenerateSpec(top_k=1))
    assert all(torch.equal(codes, greedy) for codes in cold) and len(greedy.unique()) > 2


def test_images_are_brought_to_another_side_as_floats() -> None:
    """A fine pattern survives bicubic without antialiasing, and would not survive the smoothing that bytes get."""
    pattern = torch.ones(1, 1, 48, 48)
    pattern[..., ::3] = -1
    small = brought_to(pattern, 32)
    assert small.shape == (1, 1, 32, 32) and brought_to(pattern, 48) is pattern
    expected = torch.nn.functional.interpolate(
        pattern, size=(32, 32), mode="bicubic", align_corners=False, antialias=False
    )
    assert torch.equal(small, expected) and small.std() > 1.2 * resized(pattern, 32).std()


@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.999])
def test_top_p_of_many_codes_keeps_what_a_full_sort_keeps(top_p: float) -> None:
    """Rows whose mass lies on nearly all codes, on hundreds, and on a few: in one batch, and each alone."""
    logits = torch.randn(12, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits *= torch.tensor([0.01, 1.0, 4.0, 20.0]).repeat(3)[:, None]
    assert torch.equal(filtered(logits, 0, top_p).isfinite(), llamagen_filter(logits, top_p))
    for row in logits.split(1):
        assert torch.equal(filtered(row, 0, top_p).isfinite(), llamagen_filter(row, top_p))

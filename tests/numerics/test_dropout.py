"""Dropout by a sequence's own seed: the right share, no pattern, and the same mask wherever the sequence is."""

from __future__ import annotations

import re

import pytest
import torch

from star.model.dropout import GOLDEN, SequenceDropout, layer_seeds, mixed, spread, wrapped
from tests.helpers import needs_compiler

SEEDS = torch.randint(2**31 - 1, (64,), generator=torch.Generator().manual_seed(0)).int()


def kept(p: float = 0.1, site: int = 0, seeds: torch.Tensor = SEEDS) -> torch.Tensor:
    return SequenceDropout(p, site)(torch.ones(len(seeds), 49, 64), seeds) != 0


def test_without_seeds_or_probability_nothing_happens() -> None:
    x = torch.randn(3, 4, 5)
    assert SequenceDropout(0.5, 0)(x, None) is x and SequenceDropout(0.0, 0)(x, SEEDS[:3]) is x
    assert SequenceDropout(1.0, 0)(x, SEEDS[:3]).eq(0).all()


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_share_and_the_mean_are_right(p: float) -> None:
    share = 1 - kept(p).double().mean().item()
    deviation = (p * (1 - p) / (64 * 49 * 64)) ** 0.5
    assert abs(share - p) < 4 * deviation
    x = torch.rand(64, 49, 64)
    assert SequenceDropout(p, 0)(x, SEEDS).mean().item() == pytest.approx(x.mean().item(), rel=0.05)


def test_sequences_channels_places_sites_and_layers_are_independent() -> None:
    """Of two unrelated masks at p = 1/2 half agree; so must these, within four standard deviations."""
    mask = kept(0.5)
    pairs = {
        "sequences": (mask[1:], mask[:-1]),
        "neighbouring seeds": (kept(0.5, seeds=SEEDS + 1), mask),
        "positions": (mask[:, 1:], mask[:, :-1]),
        "channels": (mask[..., 1:], mask[..., :-1]),
        "sites": (kept(0.5, site=1), kept(0.5, site=2)),
        "layers": tuple(kept(0.5, seeds=layer_seeds(SEEDS, number)) for number in (1, 2)),  # type: ignore[arg-type]
    }
    for name, (a, b) in pairs.items():
        assert abs((a == b).double().mean().item() - 0.5) < 4 * 0.5 / a.numel() ** 0.5, name
    per_sequence = mask.flatten(1).double().mean(1)
    assert per_sequence.std().item() == pytest.approx(0.5 / (49 * 64) ** 0.5, rel=0.4)


def test_a_mask_belongs_to_its_sequence_not_to_its_batch() -> None:
    whole = kept()
    assert torch.equal(whole[5:9], kept(seeds=SEEDS[5:9]))
    assert torch.equal(whole.flip(0), kept(seeds=SEEDS.flip(0)))


def test_the_mixer_maps_no_two_numbers_to_one() -> None:
    numbers = torch.arange(-(2**18), 2**18, dtype=torch.int32)
    assert len(mixed(numbers).unique()) == len(numbers)


def test_places_are_spread_by_a_product_of_32_bits() -> None:
    places = torch.arange(0, 1024 * 3200, 997, dtype=torch.int32)
    assert spread(places).tolist() == [wrapped(place * GOLDEN) for place in places.tolist()]
    assert [wrapped(n) for n in (0, 2**31 - 1, 2**31, 2**32 - 1, -(2**31), 2**32)] == [
        0,
        2**31 - 1,
        -(2**31),
        -1,
        -(2**31),
        0,
    ]


@needs_compiler
def test_compiled_it_needs_no_index_beyond_32_bits_and_drops_the_same() -> None:
    """Triton refuses a kernel with a larger one; the compiler for CPUs makes the same indices."""
    from torch._inductor.utils import run_and_get_code

    x = torch.ones(64, 49, 3200)
    found, code = run_and_get_code(torch.compile(SequenceDropout(0.1, 2)), x, SEEDS)
    assert torch.equal(found, SequenceDropout(0.1, 2)(x, SEEDS))
    factors = [int(number) for number in re.findall(r"(\d+)L\*", "".join(code))]
    assert factors and max(factors) < 2**31

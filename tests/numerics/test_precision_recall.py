"""Precision and recall equal brute force in float64, ties included, whatever the blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from star.errors import DataError
from star.evaluate import distances
from star.evaluate import precision_recall as module
from star.evaluate.precision_recall import manifold, precision_recall


def brute(reference: Tensor, generated: Tensor, neighbours: int) -> tuple[float, float, Tensor]:
    """Precision, recall and the reference's squared radii by the definition."""
    real, fake = reference.double(), generated.double()

    def distances(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([(a - point).square().sum(1) for point in b], dim=1)

    def radii(points: Tensor) -> Tensor:
        own = distances(points, points).fill_diagonal_(torch.inf)
        return own.sort(dim=1).values[:, neighbours - 1]

    between = distances(fake, real)
    precise = (between <= radii(real)).any(1).double().mean().item()
    recalled = (between <= radii(fake)[:, None]).any(0).double().mean().item()
    return precise, recalled, radii(real)


@st.composite
def sets(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dim, sizes = draw(st.integers(1, 30)), [draw(st.integers(5, 70)) for _ in range(2)]
    real, fake = (torch.randn(size, dim, generator=generator) for size in sizes)
    kind = draw(st.sampled_from(["plain", "lattice", "far away", "copies", "shared", "nearly one"]))
    if kind == "lattice":  # many distances are equal
        real, fake = real.round(), fake.round()
    elif kind == "far away":
        real, fake = real + 3000, fake + 3000
    elif kind == "copies":
        real[: len(real) // 2], fake[::2] = real[0].clone(), real[0].clone()
    elif kind == "nearly one":  # collapsed onto two images: differences lie in the last bits
        real, fake = (
            (set_[:1] + torch.randn(len(set_), dim, generator=generator) * 1e-6) for set_ in (real, real[: len(fake)])
        )
        real[::2] += 1
        fake[::2] += 1
    elif kind == "shared":
        fake[: min(sizes)] = real[: min(sizes)]
    return real, fake, draw(st.integers(1, 4))


@settings(deadline=None, max_examples=150)
@given(sets(), st.integers(3, 60), st.integers(1, 8))
def test_brute_force_in_float64(drawn: tuple[Tensor, Tensor, int], block: int, spare: int) -> None:
    real, fake, neighbours = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "BLOCK", block)
        patch.setattr(module, "SPARE", spare)
        patch.setattr(module, "CROWD", spare)
        patch.setattr(module, "CLUSTER", block)
        balls = manifold(real, neighbours)
        found = precision_recall(balls, manifold(fake, neighbours))
    precise, recalled, radii = brute(real, fake, neighbours)
    assert found == (precise, recalled)
    torch.testing.assert_close(balls.radii, radii, rtol=1e-12, atol=0)


def test_a_point_on_the_surface_is_inside() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    balls = manifold(line, 1)
    assert balls.radii.tolist() == [1.0, 1.0, 4.0, 16.0]
    outside = torch.nextafter(torch.tensor(-1.0), torch.tensor(-2.0)).item()
    points = torch.tensor([[-1.0], [outside], [11.0], [11.0000010]])
    assert precision_recall(balls, manifold(points, 1))[0] == 0.5


@pytest.mark.parametrize("count", [40, 500, 1500])
def test_sets_of_copies_of_one_image(count: int) -> None:
    same = torch.rand(1, 64, generator=torch.Generator().manual_seed(0)).repeat(count, 1)
    assert precision_recall(manifold(same, 3), manifold(same, 3)) == (1.0, 1.0)
    assert precision_recall(manifold(same, 3), manifold(same * 1.001, 3)) == (0.0, 0.0)


@pytest.mark.parametrize("block", [16, 1024])
def test_copies_of_several_images_that_are_nearly_one(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further from the group's first image than rounding, nearer to each other than float32 can tell."""
    monkeypatch.setattr(distances, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(1, 24, generator=generator) + torch.randn(5, 24, generator=generator) * 1e-5
    real = torch.cat([centres.repeat_interleave(40, 0), torch.randn(30, 24, generator=generator)])
    fake = torch.cat([centres[:2].repeat_interleave(30, 0), torch.randn(30, 24, generator=generator)])
    found = manifold(real, 3)
    precise, recalled, known = brute(real, fake, 3)
    assert (known[:200] == 0).all()
    torch.testing.assert_close(found.radii, known, rtol=1e-12, atol=0)
    assert precision_recall(found, manifold(fake, 3)) == (precise, recalled)


def test_a_collapsed_generator_takes_no_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 features that differ in their last bits: few distances are computed one by one."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, 256, generator=generator) * (1 + torch.randn(1000, 256, generator=generator) * 1e-6)
    computed = 0
    own = module.exact

    def counted(a: Tensor, b: Tensor, pairs: Tensor) -> Tensor:
        nonlocal computed
        computed += len(pairs)
        return own(a, b, pairs)

    monkeypatch.setattr(module, "exact", counted)
    balls = manifold(points, 3)
    found = precision_recall(balls, manifold(points.flip(0) * 1.0000001, 3))
    assert computed < 60 * 1000
    assert found == brute(points, points.flip(0) * 1.0000001, 3)[:2]


def test_too_few_images() -> None:
    with pytest.raises(DataError, match="need at least 4 images in each set, not 3"):
        manifold(torch.zeros(3, 2), 3)

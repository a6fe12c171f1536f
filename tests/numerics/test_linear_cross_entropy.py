"""The cross entropy without logits equals the one with them: loss and gradients, however many blocks it takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from star.objectives import linear_cross_entropy as module
from star.objectives.linear_cross_entropy import linear_cross_entropy


def drawn(rows: int, dim: int, codes: int, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + 100 * codes)
    hidden, weight = (torch.randn(count, dim, generator=generator, dtype=kind) for count in (rows, codes))
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(codes, (rows,), generator=generator)


@given(rows=st.integers(1, 40), codes=st.integers(2, 30), held=st.integers(1, 300))
def test_loss_and_gradients(rows: int, codes: int, held: int) -> None:
    hidden, weight, own = drawn(rows, 5, codes, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.BLOCK, "cpu", held)
        found = 3 * linear_cross_entropy(hidden, weight, own)
        gradients = torch.autograd.grad(found, (hidden, weight))
    expected = 3 * F.cross_entropy(hidden @ weight.T, own, reduction="sum")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (hidden, weight)))


def test_in_bfloat16_the_products_are_rounded_and_the_softmax_is_not() -> None:
    hidden, weight, own = drawn(600, 16, 1000, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cross_entropy(hidden, weight, own)
        plain = F.cross_entropy(F.linear(hidden, weight).float(), own, reduction="sum")
    assert found.dtype == torch.float32 and weight.dtype == torch.float32
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=0)
    for mine, theirs in zip(
        torch.autograd.grad(found, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight)), strict=True
    ):
        assert ((mine - theirs).norm() / theirs.norm()).item() < 0.01


def test_no_gradient_is_computed_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, own = drawn(8, 4, 6, torch.float32)
    made: list[str] = []
    for name in ("linear", "outer"):
        kept = getattr(module, name)
        monkeypatch.setattr(module, name, lambda a, b, n=name, k=kept: made.append(n) or k(a, b))
    with torch.no_grad():
        linear_cross_entropy(hidden, weight, own)
    linear_cross_entropy(hidden.detach(), weight.detach(), own)
    assert made == ["linear", "linear"]
    linear_cross_entropy(hidden, weight.detach(), own).backward()
    assert made[2:] == ["linear", "linear"] and hidden.grad is not None
    linear_cross_entropy(hidden.detach(), weight, own).backward()
    assert made[4:] == ["linear", "outer"] and weight.grad is not None


def test_autocast_leaves_float64_alone_and_a_device_may_have_none() -> None:
    hidden, weight, own = drawn(8, 4, 6, torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cross_entropy(hidden, weight, own)
    torch.testing.assert_close(found, F.cross_entropy(hidden @ weight.T, own, reduction="sum"))
    assert linear_cross_entropy(hidden.to("meta"), weight.to("meta"), own.to("meta")).device.type == "meta"


def test_the_logits_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand positions and codes, a tenth of the logits at most."""
    hidden, weight, own = drawn(1000, 4, 1000, torch.float32)
    monkeypatch.setitem(module.BLOCK, "cpu", 100_000)
    largest = []
    kept = torch.log_softmax

    def seen(logits: Tensor, **given: object) -> Tensor:
        largest.append(logits.numel())
        return kept(logits, **given)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "log_softmax", seen)
    linear_cross_entropy(hidden, weight, own).backward()
    assert max(largest) == 100_000 and sum(largest) == 1_000_000

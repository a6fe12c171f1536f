"""What a CPU computes in its own way equals PyTorch's plain operations: values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from star.model import kernels
from star.model.gpt import rope_table
from star.model.kernels import linear, on_cpu, outer, rms_norm, rotate


def drawn(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=kind).requires_grad_()


def agree(found: Callable[..., Tensor], expected: Callable[..., Tensor], *given: Tensor) -> None:
    values = [one(*given) for one in (found, expected)]
    grad = torch.randn(values[0].shape, generator=torch.Generator().manual_seed(1), dtype=values[0].dtype)
    torch.testing.assert_close(*values, atol=2e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(value, given, grad) for value in values]
    torch.testing.assert_close(*gradients, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(12,), (7, 12), (3, 5, 12), (2, 3, 4, 12)])
@pytest.mark.parametrize("outputs", [8, 40])
def test_a_linear_layer(shape: tuple[int, ...], outputs: int) -> None:
    x, weight, bias = drawn(*shape), drawn(outputs, 12), drawn(outputs)
    agree(linear, F.linear, x, weight)
    agree(linear, F.linear, x, weight, bias)
    if x.ndim > 1:
        agree(lambda x, w: linear(x[::2], w), lambda x, w: F.linear(x[::2], w), x, weight)
    agree(lambda x, w: linear(x, w[::2]), lambda x, w: F.linear(x, w[::2]), x, weight)
    made = linear(x, weight)
    assert made.grad_fn is not None and ("_Linear" in made.grad_fn.name()) == kernels._ONEDNN


def test_only_what_is_wanted_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, made = drawn(6, 12), drawn(8, 12), []
    product = kernels._product
    monkeypatch.setattr(kernels, "_product", lambda *given: made.append(1) or product(*given))  # type: ignore[func-returns-value]
    assert not linear(x.detach(), weight.detach()).requires_grad
    for given in ((x.detach(), weight), (x, weight.detach()), (x, weight)):
        made.clear()
        linear(*given).sum().backward()
        assert len(made) == 1 + sum(one.requires_grad for one in given) or not kernels._ONEDNN


def test_where_onednn_gets_no_memory_pytorch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        @staticmethod
        def _linear_pointwise(*given: object) -> Tensor:
            raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(torch.ops, "mkldnn", Refuses)
    agree(linear, F.linear, drawn(7, 12), drawn(8, 12), drawn(8))


def test_second_derivatives_and_transforms() -> None:
    """A term may punish gradients: then the plain operations are derived."""
    x, weight, scale = drawn(4, 8), drawn(8, 8), drawn(8)
    rope = rope_table(2, 8, 10_000.0)

    def penalty(mine: bool) -> Tensor:
        made = linear(x, weight) if mine else F.linear(x, weight)
        made = rms_norm(made, scale, 1e-5) if mine else kernels._plain_norm(made, scale, 1e-5)
        made = rotate(made, rope if mine else rope.clone())
        (grad,) = torch.autograd.grad((made**3).sum(), x, create_graph=True)
        return grad.square().sum()

    found = [torch.autograd.grad(penalty(mine), (x, weight, scale)) for mine in (True, False)]
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-4)
    each = torch.func.vmap(lambda row: rotate(rms_norm(linear(row, weight), scale, 1e-5)[None], rope[:, :1])[0])(x)
    whole = rotate(rms_norm(linear(x, weight), scale, 1e-5)[:, None], rope[:, :1])[:, 0]
    torch.testing.assert_close(each, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("wide", "narrow"), [(30, 4), (4, 30), (9, 9)])
def test_the_gradient_of_a_weight(wide: int, narrow: int) -> None:
    grad, x = drawn(50, wide).detach(), drawn(50, narrow).detach()
    torch.testing.assert_close(outer(grad, x), grad.T @ x, atol=2e-5, rtol=1e-5)
    assert torch.equal(outer(grad.double(), x.double()), grad.double().T @ x.double())


def test_a_norm() -> None:
    plain: Callable[..., Tensor] = lambda x, w: x / (x.square().mean(-1, keepdim=True) + 1e-2).sqrt() * w  # noqa: E731
    agree(lambda x, w: rms_norm(x, w, 1e-2), plain, drawn(4, 5, 16), drawn(16))
    assert torch.autograd.gradcheck(
        lambda x, w: rms_norm(x, w, 1e-2), (drawn(3, 2, 6, kind=torch.float64), drawn(6, kind=torch.float64))
    )


def test_a_rotation() -> None:
    rope = rope_table(3, 8, 10_000.0)

    def plain(x: Tensor) -> Tensor:
        cos, sin = rope[0, :, ::2], rope[1, :, 1::2]
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

    agree(lambda x: rotate(x, rope), plain, drawn(2, 5, 3, 9, 8))
    agree(lambda x: rotate(x.transpose(1, 2), rope), lambda x: plain(x.transpose(1, 2)), drawn(2, 9, 3, 8))
    assert torch.autograd.gradcheck(lambda x: rotate(x, rope.double()), (drawn(2, 9, 8, kind=torch.float64),))
    coarse = drawn(2, 9, 8).bfloat16()
    torch.testing.assert_close(rotate(coarse, rope), plain(coarse.float()).bfloat16())


def test_what_is_not_plain_is_left_to_pytorch() -> None:
    x, weight = drawn(6, 12), drawn(8, 12)
    assert on_cpu(x, weight) and not on_cpu(x, weight.double()) and not on_cpu(x.to("meta"), weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not on_cpu(x, weight)
        assert linear(x, weight).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(x, drawn(8, 13))

    def block(x: Tensor, w: Tensor) -> Tensor:
        return rotate(rms_norm(linear(x, w), w[:, 0], 1e-5), rope_table(3, 8, 10_000.0)[:, :6])

    compiled = torch.compile(block, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, weight), block(x, weight))

"""Products, norms and rotations as a CPU computes them fastest; elsewhere, and for compilers, in PyTorch's plain operations.

A small transformer on a CPU is bound by MKL, which leaves half of an AMD core's vector units idle in float32, and by
passes over memory. oneDNN, which PyTorch carries too, uses all of them, but PyTorch asks it for half precision only.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def on_cpu(*tensors: Tensor) -> bool:
    """Whether these are plain tensors of one type on the CPU, computed at once and as they are."""
    first = tensors[0]
    return (
        first.device.type == "cpu"
        and all(type(one) in (Tensor, nn.Parameter) and one.dtype == first.dtype for one in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


class Linear(nn.Linear):
    """`nn.Linear`, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias of x (..., I), weight (O, I) and bias (O,): (..., O)."""
    given = (x, weight) if bias is None else (x, weight, bias)
    fits = x.shape[-1] == weight.shape[-1]  # else PyTorch says what does not fit
    if x.dtype == torch.float32 and _ONEDNN and x.numel() and fits and on_cpu(*given):
        return cast(Tensor, _Linear.apply(x, weight, bias))
    return F.linear(x, weight, bias)


def outer(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x of grad (N, O) and x (N, I): the gradient (O, I) of a weight."""
    wanted = torch.is_grad_enabled() and (grad.requires_grad or x.requires_grad)  # a second derivative
    if not wanted and x.dtype == torch.float32 and _ONEDNN and x.numel() and on_cpu(grad, x):
        # the first operand is copied to be contiguous: the narrower one
        return _product(grad.T, x.T) if grad.shape[1] < x.shape[1] else _product(x.T, grad.T).T
    return grad.T @ x


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    try:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
    except RuntimeError:  # no memory for the code that oneDNN makes; if none is left at all, this says so
        return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        return (
            linear(grad, weight.T) if needs[0] else None,
            outer(flat, x.reshape(-1, x.shape[-1])) if needs[1] else None,
            flat.sum(0) if needs[2] else None,
        )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D) over its root mean square, times weight (D,); computed in float32, in float64 for float64 input."""
    if on_cpu(x, weight) and x.dtype in (torch.float32, torch.float64):
        return cast(Tensor, _RMSNorm.apply(x, weight, eps))
    return _plain_norm(x, weight, eps)


def _plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normed.type_as(x) * weight


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        normed = x * scale
        ctx.save_for_backward(x, weight, normed, scale)
        ctx.eps = eps
        return normed * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, normed, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: through operations that have one
            wanted = [one for one, needed in zip((x, weight), ctx.needs_input_grad[:2], strict=True) if needed]
            found = iter(torch.autograd.grad(_plain_norm(x, weight, ctx.eps), wanted, grad, create_graph=True))
            return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:2]), None)
        along = grad * normed
        of_weight = along.reshape(-1, along.shape[-1]).sum(0) if ctx.needs_input_grad[1] else None
        share = (along * weight).mean(-1, keepdim=True)
        return torch.addcmul(grad * weight, normed, share, value=-1).mul_(scale), of_weight, None


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate x (..., t, d) by rope (2, ..., t, d), cosines and signed sines; a pair is two adjacent channels.

    Computed in rope's precision. Dimensions between the first and the last two have to fit those of x.
    """
    wide = x.to(rope.dtype)
    if on_cpu(wide, rope):
        return cast(Tensor, _Rotation.apply(wide, rope)).to(x.dtype)
    swapped = wide.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(wide * rope[0], swapped, rope[1]).to(x.dtype)


class _Rotation(torch.autograd.Function):
    """A pair is a complex number, which is multiplied by cos + i sin; its gradient is by the conjugate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rope: Tensor) -> Tensor:
        turn = torch.complex(rope[0, ..., ::2].contiguous(), rope[1, ..., 1::2].contiguous())
        ctx.save_for_backward(turn)
        return _turned(x, turn)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _turned(grad.contiguous(), ctx.saved_tensors[0].conj()), None


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)

"""Linear maps, biases and activations whose results use the pool of reusable tensor memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from graphtheta.runtime.ownership import is_sole_owner
from graphtheta.runtime.tensor_pool import empty
from graphtheta.shard.sparse_rows import is_sparse_rows
from graphtheta.tgar.mixed_precision import float_rows, is_autocast

__all__ = ["Linear", "add_bias", "elu", "linear", "relu"]

_aten = torch.ops.aten
_Apply = Callable[[Tensor], Tensor]  # works in place; returns its argument
_Derive = Callable[[Tensor, Tensor, Tensor], None]  # (gradient, result, gradient of x: written)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, onto: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if onto is not None:
            ctx.mark_dirty(onto)
            return onto.addmm_(x, weight.t())
        return torch.mm(x, weight.t(), out=empty((len(x), len(weight)), x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_onto = ctx.needs_input_grad
        return (
            torch.mm(grad, weight, out=empty(x.shape, x.dtype)) if of_x else None,
            grad.t() @ x if of_weight else None,
            grad if of_onto else None,
        )


class _Bias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        return torch.add(x, bias, out=empty(x.shape, x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.sum(0)


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: _Apply, derive: _Derive) -> Tensor:
        ctx.mark_dirty(x)
        ctx.derive = derive
        ctx.save_for_backward(apply(x))
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        of_x = grad if is_sole_owner(grad) else empty(y.shape, y.dtype)
        ctx.derive(grad, y, of_x)
        return of_x, None, None


def _is_supported(x: Tensor, *others: Tensor) -> bool:
    """Return whether the functions here support x: a CPU matrix, of the others' dtype.

    Sparse rows have products of their own.
    """
    if is_sparse_rows(x):
        return False
    return x.dim() == 2 and x.device.type == "cpu" and all(o.dtype == x.dtype for o in others)


def linear(x: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
    """Return x W^T; if `onto` is given, add to it in place.

    Shape:
        x: (R, in). weight: (out, in). onto: (R, out). Returns (R, out).
    """
    if is_autocast(weight.device.type):
        product: Tensor = float_rows(F.linear(x, weight))
        return product if onto is None else onto + product
    if not _is_supported(x, weight):
        return F.linear(x, weight) if onto is None else onto.addmm_(x, weight.t())
    result: Tensor = _Product.apply(x, weight, onto)  # type: ignore[no-untyped-call]
    return result


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """Return x + b in new memory.

    Shape:
        x: (R, F). bias: (F,). Returns (R, F).
    """
    if not _is_supported(x, bias):
        return x + bias
    result: Tensor = _Bias.apply(x, bias)  # type: ignore[no-untyped-call]
    return result


def relu(x: Tensor) -> Tensor:
    """Apply ReLU to x in place, and return it; no other code may use the values of x."""
    return _activated(x, torch.relu_, _relu_gradient)


def elu(x: Tensor) -> Tensor:
    """Apply ELU to x in place, and return it; no other code may use the values of x."""
    return _activated(x, F.elu_, _elu_gradient)


def _relu_gradient(grad: Tensor, y: Tensor, of_x: Tensor) -> None:
    _aten.threshold_backward.grad_input(grad, y, 0, grad_input=of_x)


def _elu_gradient(grad: Tensor, y: Tensor, of_x: Tensor) -> None:
    _aten.elu_backward.grad_input(grad, 1, 1, 1, True, y, grad_input=of_x)


def _activated(x: Tensor, apply: _Apply, derive: _Derive) -> Tensor:
    if not _is_supported(x):
        return apply(x)
    result: Tensor = _Activation.apply(x, apply, derive)  # type: ignore[no-untyped-call]
    return result


class Linear(nn.Linear):
    """Linear layer like `torch.nn.Linear`, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        out = linear(x, self.weight)
        return out if self.bias is None else out.add_(self.bias)

"""Gradients that nobody has but the function they are handed to, which may overwrite them.

Autograd's own sums do so. Who holds a tensor is counted; what the counts are when nobody else does
depends on how autograd and the interpreter hand a gradient over, so that is measured, once.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["is_sole_owner"]

_Owners = tuple[int, int, int]


def is_sole_owner(grad: Tensor) -> bool:
    """Whether nobody has a gradient but the `backward` that calls this with its own argument.

    To be called in a statement of its own: another use of `grad` in the same one counts.
    """
    return _owners(grad) == _owners_if_lone()


def _owners(grad: Tensor) -> _Owners:
    """Count who holds a tensor in C++ and in Python, and who its memory, which views share."""
    in_memory = torch._C._storage_Use_Count(grad.untyped_storage()._cdata)
    return grad._use_count(), sys.getrefcount(grad), in_memory  # type: ignore[attr-defined]


@cache
def _owners_if_lone() -> _Owners:
    found: list[_Owners] = []
    with torch.enable_grad():
        x = torch.zeros(1, requires_grad=True)
        for _ in range(2):  # the gradient of the first is what the second made
            x = _Probe.apply(x, found)  # type: ignore[no-untyped-call]
        torch.autograd.backward(x)
    return found[1]


class _Probe(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, found: list[_Owners]) -> Tensor:
        ctx.found = found
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        _note(grad, ctx.found)
        return grad.clone(), None


def _note(grad: Tensor, found: list[_Owners]) -> None:
    found.append(_owners(grad))  # as deep in calls as from `is_sole_owner`

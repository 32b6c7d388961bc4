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

__all__ = ["owners", "owners_if_lone"]


def owners(grad: Tensor) -> tuple[int, ...]:
    """Count who holds a gradient in C++ and in Python, and who its memory, which views share.

    Called by `backward` itself, with its own argument: each function in between holds it once more.
    """
    in_memory = torch._C._storage_Use_Count(grad.untyped_storage()._cdata)
    return grad._use_count(), sys.getrefcount(grad), in_memory  # type: ignore[attr-defined]


@cache
def owners_if_lone() -> tuple[int, ...]:
    """Return the `owners` of a gradient that nobody has but the function it is handed to."""
    found: list[tuple[int, ...]] = []
    with torch.enable_grad():
        x = torch.zeros(1, requires_grad=True)
        for _ in range(2):
            x = _Probe.apply(x, found)  # type: ignore[no-untyped-call]
        torch.autograd.backward(x)
    return found[1]


class _Probe(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, found: list[tuple[int, ...]]) -> Tensor:
        ctx.found = found
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.found.append(owners(grad))
        return grad.clone(), None

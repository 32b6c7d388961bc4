"""Detection of gradients with a single owner, which a `backward` may overwrite in place.

A gradient has one owner if only the running `backward` refers to it: no hook, no retained gradient
and no other branch of the graph. torch has no public call for this, so the references to the tensor
are counted and compared with the counts of a gradient that has one owner, which are measured once
in a small graph.

The counts come from private functions of torch. If a version of torch lacks one of them, or if a
count does not react to a further reference, no gradient counts as having a single owner: results
stay the same and take one more buffer.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["is_sole_owner"]

_Counts = tuple[int, int, int]


def is_sole_owner(grad: Tensor) -> bool:
    """Return whether the calling `backward` holds the only reference to its argument `grad`.

    Call this in a statement of its own, because any other use of `grad` in the same statement is a
    reference too.

    Args:
        grad: Gradient that autograd passed to the calling `backward`, which is decorated with
            `once_differentiable`.

    Returns:
        True if `grad` may be overwritten; False if it may not, or if this version of torch gives
        no way to know.
    """
    expected = _counts_of_single_owner()
    return expected is not None and _count_references(grad) == expected


def _count_references(grad: Tensor) -> _Counts | None:
    """Count the C++ and Python references to a tensor, and the tensors that share its memory.

    Returns None if this version of torch or Python does not count one of them.
    """
    try:
        sharing = torch._C._storage_Use_Count(grad.untyped_storage()._cdata)
        return grad._use_count(), sys.getrefcount(grad), sharing  # type: ignore[attr-defined]
    except (AttributeError, TypeError, RuntimeError):
        return None


@cache
def _counts_of_single_owner() -> _Counts | None:
    """Measure the counts of a gradient with one owner; None if they cannot be relied on."""
    found: list[_Counts | None] = []
    try:
        with torch.enable_grad():
            x = torch.zeros(1, requires_grad=True)
            for _ in range(2):  # the first function gets the gradient that the second one made
                x = _Probe.apply(x, found)  # type: ignore[no-untyped-call]
            torch.autograd.backward(x)
    except (AttributeError, RuntimeError):
        return None
    return found[1] if len(found) == 2 else None


class _Probe(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, found: list[_Counts | None]) -> Tensor:
        ctx.found = found
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        _append_counts(grad, ctx.found)
        return grad.clone(), None


def _append_counts(grad: Tensor, found: list[_Counts | None]) -> None:
    """Append the counts of `grad`, as many calls deep as in `is_sole_owner`."""
    counts = _count_references(grad)
    found.append(counts if counts is not None and _every_count_reacts(grad) else None)


def _every_count_reacts(grad: Tensor) -> bool:
    """Return whether each of the three counts grows with a further reference of its kind."""
    before = _count_references(grad)
    holder = torch.zeros_like(grad)
    holder.grad = grad  # held from C++
    from_cpp = _count_references(grad)
    holder.grad = None
    also = grad  # held from Python
    from_python = _count_references(grad)
    del also
    alias = grad.detach()  # the same memory
    of_memory = _count_references(grad)
    del alias
    if before is None or from_cpp is None or from_python is None or of_memory is None:
        return False
    grown = from_cpp[0], from_python[1], of_memory[2]
    return all(after > count for after, count in zip(grown, before, strict=True))

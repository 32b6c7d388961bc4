"""Devices that tests run on; one of them is pretended, and needs no GPU.

A tensor on the pretended device keeps its values on the CPU and computes there, but behaves as one
on a GPU: it is no NumPy array, and an operation on it and on a tensor of the CPU is refused, unless
that one is a scalar. So what runs here has no tensor that was left behind. To torch the device is
"meta", which needs no driver.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["DEVICES", "Device", "Pretended"]

_META = torch.device("meta")
_MOVES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)


class _There(Tensor):
    """A tensor on the pretended device."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> _There:
        there: _There = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=_META,
        )
        there.inner = inner
        return there

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """Inside, tensors can be moved to, and made on, the pretended device; of one thread."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = {id(t.inner): t for t in tensors if isinstance(t, _There)}
    here = [t for t in tensors if not isinstance(t, _There) and t.dim()]
    if there and here and func.overloadpacket not in _MOVES:
        raise RuntimeError(
            f"{func}: expected all tensors to be on the same device, found some on the CPU of "
            f"shapes {[tuple(t.shape) for t in here]}"
        )
    device = kwargs.get("device")
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
        goes_there = torch.device(device) == _META
    elif func.overloadpacket is torch.ops.aten.copy_:
        goes_there = isinstance(args[0], _There)
    else:
        goes_there = bool(there)
    inner_args, inner_kwargs = tree_map(
        lambda leaf: leaf.inner if isinstance(leaf, _There) else leaf, (args, kwargs)
    )
    result = func(*inner_args, **inner_kwargs)
    if not goes_there:
        return result

    def wrapped(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return (
            there[id(leaf)] if id(leaf) in there else _There(leaf)
        )  # what is changed in place stays itself

    return tree_map(wrapped, result)


@dataclass(frozen=True)
class Device:
    """A device, and what each thread enters to use it."""

    name: str
    usable: Callable[[], AbstractContextManager[Any]]


DEVICES = {
    "cpu": Device("cpu", nullcontext),
    "pretended": Device("meta", Pretended),
    "cuda": Device("cuda", nullcontext),
}

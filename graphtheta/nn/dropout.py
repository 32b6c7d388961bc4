"""Node dropout, drawn by (node_key, column): the same mask on any number of workers."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphtheta.errors import ConfigError
from graphtheta.rng.philox import Purpose, dropout
from graphtheta.runtime.ownership import is_sole_owner
from graphtheta.runtime.tensor_pool import empty
from graphtheta.shard.sparse_rows import sparse_rows
from graphtheta.tgar import LayerView, ViewModule
from graphtheta.tgar.layer import ROWS_OF_A_LAYER

__all__ = ["Dropout"]

_PER_THREAD = 1 << 18  # least number of values for each thread: a third of a millisecond


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, draw: _Draw) -> Tensor:
        ctx.draw = draw
        return draw.apply(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        in_place = is_sole_owner(grad)
        return ctx.draw.apply(grad, in_place=in_place), None


class _Draw:
    """Dropout mask, drawn again whenever it is applied rather than stored."""

    def __init__(
        self, keys_R: NDArray[np.int64], p: float, key_2: NDArray[np.uint32], stream: np.uint32
    ) -> None:
        self._keys_R, self._arguments = keys_R, (p, key_2, stream)

    def apply(self, x: Tensor, *, in_place: bool = False) -> Tensor:
        """Return x with the mask applied, on as many threads as torch uses."""
        rows = x.detach().cpu().contiguous().reshape(len(x), math.prod(x.shape[1:]))
        out = rows if in_place else empty(rows.shape, rows.dtype)
        source, target = rows.numpy(), out.numpy()

        def work(first: int, last: int) -> None:
            some = slice(first, last)
            dropout(source[some], self._keys_R[some], *self._arguments, target[some])

        threads = min(torch.get_num_threads(), -(-rows.numel() // _PER_THREAD))
        if threads > 1:
            bounds = [len(x) * n // threads for n in range(threads + 1)]
            list(_threads().map(work, bounds[:-1], bounds[1:]))
        else:
            work(0, len(x))
        return out.reshape(x.shape).to(x.device)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "graphtheta-dropout")


class Dropout(ViewModule):
    """Zero each column of each node with probability p, and scale the others by 1 / (1 - p).

    Args:
        p: Dropout probability, in [0, 1).

    Shape:
        forward(view, x): x (M, ...) float32 or float64, rows of the view's nodes; returns the same.

    Raises:
        ConfigError: If p is out of range.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ConfigError(f"dropout: expected p in [0, 1), got {p}.")
        self.p = p

    def forward(self, view: LayerView, x: Tensor) -> Tensor:
        """Drop columns in training mode; return `x` itself otherwise."""
        if not self.training or self.p == 0:
            return x
        if len(x) > len(view.node_keys):
            raise ConfigError(
                f"Dropout: expected at most one row for each of the {len(view.node_keys)} inputs "
                f"of view[{view.layer}], got {len(x)}. {ROWS_OF_A_LAYER}"
            )
        stream = view.next_stream(Purpose.NODE_DROPOUT)
        if (rows := sparse_rows(x)) is not None:
            keys = view.node_keys[: len(rows)]
            return cast(Tensor, rows.dropout(keys, self.p, view.view.step_key, stream))
        draw = _Draw(view.node_keys, self.p, view.view.step_key, stream)
        result: Tensor = _Dropout.apply(x, draw)  # type: ignore[no-untyped-call]
        return result

    def extra_repr(self) -> str:
        return f"p={self.p}"

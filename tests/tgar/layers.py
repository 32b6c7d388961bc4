"""Layers for tests, made from a gather."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.nn import seeded
from graphtheta.tgar import TGARLayer

__all__ = ["Written", "written"]

WIDTH = 3


class Written(TGARLayer):
    """Layer of given stages; `gather(layer, src, dst, edge)` may read the layer."""

    def __init__(
        self,
        gather: Callable[..., Any],
        transform: Callable[..., Any] | None,
        apply_node: Callable[..., Any] | None,
        aggregator: str,
        self_loops: bool,
    ) -> None:
        super().__init__()
        self._gather, self._transform_by, self._apply_by = gather, transform, apply_node
        self.aggregator, self.self_loops = aggregator, self_loops
        self.w = nn.Parameter(torch.randn(WIDTH))
        self.table = nn.Parameter(torch.randn(5, WIDTH))
        self.lin = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("buffer", torch.randn(WIDTH))

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        if self._transform_by is not None:
            fields: dict[str, Tensor] = self._transform_by(self, h)
            return fields
        return {"h": h, "k": torch.cat([h, -h], 1).view(-1, 2, WIDTH)}

    def gather(self, src: Any, dst: Any, edge: Any) -> Any:
        return self._gather(self, src, dst, edge)

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Any:
        return m if self._apply_by is None else self._apply_by(self, n, m)


def written(
    gather: Callable[..., Any],
    *,
    transform: Callable[..., Any] | None = None,
    apply_node: Callable[..., Any] | None = None,
    aggregator: str = "sum",
    self_loops: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Written:
    """Return a layer with the parameters w (3,), table (5, 3), lin (3, 3) and a buffer (3,)."""
    with seeded(0):
        return Written(gather, transform, apply_node, aggregator, self_loops).to(dtype)

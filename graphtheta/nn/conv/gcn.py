"""GCN: graph convolution with symmetric normalisation (Kipf, Welling, ICLR 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.nn.conv.order import projects_first
from graphtheta.nn.init import glorot
from graphtheta.nn.linear import Linear
from graphtheta.tgar import LayerView, TGARLayer

__all__ = ["GCNConv"]


class GCNConv(TGARLayer):
    """h_i = sum over j in N(i) and i itself of W h_j / sqrt(d_i d_j), plus a bias.

    d is the in-degree in the whole graph plus one for the self-loop, in any batch that is not
    renormalised. If in-edges are sampled, each is weighted by in-degree / fan-out, so that the
    expectation of the sum is that over all in-edges. W is applied before or after the sum,
    whichever costs less. Parameter names equal PyG's `GCNConv`.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result.
        bias: Whether to add a bias.

    Shape:
        h: (M, in_channels). Returns (M, out_channels).
    """

    aggregator = "sum"
    self_loops = True
    node_columns = ("in_degree",)

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.lin = Linear(in_channels, out_channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._project_first = False
        self._edges_per_draw: Tensor | None = None
        glorot(self.lin.weight)

    def forward(self, view: LayerView, h: Tensor) -> Tensor:
        wide = (self.lin.in_features, self.lin.out_features)
        self._project_first = projects_first(view, *wide)
        self._edges_per_draw = view.edges_per_draw()
        out: Tensor = super().forward(view, h)
        return out

    def transform(self, h: Tensor, node: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scale = node["in_degree"].to(h.dtype).rsqrt().unsqueeze(-1)
        return {"z": self.lin(h) if self._project_first else h, "scale": scale}

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        # Scaled per edge: scaling rows of z would need another pass over all nodes.
        message: Tensor = src["z"] * (src["scale"] * dst["scale"])
        return message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        if self._edges_per_draw is not None:
            weight = self._edges_per_draw.to(m.dtype).unsqueeze(-1)
            # The self-loop is part of the sum but is never sampled, so its weight stays 1.
            m = m * weight - n["z"] * (n["scale"].square() * (weight - 1))
        h = m if self._project_first else self.lin(m)
        return h if self.bias is None else h.add_(self.bias)  # not saved for backward

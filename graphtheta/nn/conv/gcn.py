"""GCN: graph convolution with symmetric normalisation (Kipf, Welling, ICLR 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.conv.order import projects_first
from graphtheta.nn.conv.weights import is_sampled_by_weight, reads_weights
from graphtheta.nn.init import glorot
from graphtheta.nn.linear import Linear
from graphtheta.tgar import LayerView, TGARLayer

__all__ = ["GCNConv"]


class GCNConv(TGARLayer):
    """h_i = sum over j in N(i) and i itself of w_ij W h_j / sqrt(d_i d_j), plus a bias.

    w is the edge column `weight`, or 1 without weights; that of a self-loop which the graph does
    not have is 1. d is the sum of w over in-edges and the self-loop in the whole graph, in any
    batch that is not renormalised. If in-edges are sampled, each counts in-degree / fan-out times,
    so that the expectation of the sum is that over all in-edges; edges that are sampled by weight
    count sum of weights / fan-out each. W is applied before or after the sum, whichever costs less.
    Parameter names and results equal PyG's `GCNConv`.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result.
        bias: Whether to add a bias.
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.

    Raises:
        ConfigError: If the weights of a node's in-edges sum to less than -1: it has no square root
            to normalise by.

    Shape:
        h: (M, in_channels). Returns (M, out_channels).
    """

    aggregator = "sum"
    self_loops = True
    node_columns = ("in_degree",)
    own_loop_columns = True
    cast_edge_columns = ("weight",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = True,
        weighted: bool | None = None,
    ) -> None:
        super().__init__()
        self.weighted = weighted
        self.lin = Linear(in_channels, out_channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._project_first = False
        self._edges_per_draw: Tensor | None = None
        self._loop_weight: Tensor | None = None
        self._is_drawn: Tensor | None = None  # rows whose edges were sampled by weight
        glorot(self.lin.weight)

    def forward(self, view: LayerView, h: Tensor) -> Tensor:
        wide = (self.lin.in_features, self.lin.out_features)
        self._project_first = projects_first(view, h, *wide)
        is_weighted = reads_weights(view, self.weighted)
        self.node_columns = ("in_weight",) if is_weighted else ("in_degree",)
        self._edges_per_draw, self._loop_weight = view.edges_per_draw(), None
        self._is_drawn = None
        if is_weighted and self._edges_per_draw is not None:
            self._loop_weight = view.loop_column("weight", own=True)
            if is_sampled_by_weight(view):
                self._is_drawn = self._drawn_by_weight(view, self._edges_per_draw)
        out: Tensor = super().forward(view, h)
        return out

    def _drawn_by_weight(self, view: LayerView, edges_per_draw: Tensor) -> Tensor:
        """Return which rows were sampled, and set what each of their edges counts: (I,) bool."""
        block, shard, rows = view.block, view.shard, len(edges_per_draw)
        degree = block.of_inputs(shard.node_column("in_degree"))[:rows].clamp(min=1)
        total = block.of_inputs(shard.in_weight(loopless=False))[:rows]
        assert block.fanout is not None
        drawn = (edges_per_draw > 1) | block.fanout.replace  # else all edges of the row are there
        self._edges_per_draw = torch.where(drawn, total * edges_per_draw / degree, 1.0)
        return nn.functional.pad(drawn, (0, block.num_inputs - rows))

    def transform(self, h: Tensor, node: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (degree,) = node.values()
        if "in_weight" in node and (degree < 0).any():
            raise ConfigError(
                "gcn: expected weights of in-edges that sum to -1 or more for each node, got "
                f"{degree.min() - 1:.4g}. Use weights of at least 0, or do not read them "
                "(weighted=False, --no-weighted)."
            )
        scale = degree.to(h.dtype).rsqrt()
        if "in_weight" in node:
            scale = scale.masked_fill(degree == 0, 0)
        fields = {"z": self.lin(h) if self._project_first else h, "scale": scale.unsqueeze(-1)}
        if self._is_drawn is not None:
            fields["drawn"] = self._is_drawn.to(h.dtype).unsqueeze(-1)
        return fields

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        # Scaled per edge: scaling rows of z would need another pass over all nodes.
        scale = src["scale"] * dst["scale"]
        if "in_weight" in self.node_columns:
            weight = edge["weight"].unsqueeze(-1)
            if self._is_drawn is not None:  # such an edge was drawn by its weight instead
                weight = weight * (1 - dst["drawn"]) + dst["drawn"]
            scale = scale * weight
        message: Tensor = src["z"] * scale
        return message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        if self._edges_per_draw is not None:
            count = self._edges_per_draw.to(m.dtype).unsqueeze(-1)
            # The self-loop is part of the sum but is never sampled, so it counts once.
            loop = in_sum = torch.ones_like(count)
            if self._loop_weight is not None:
                loop = in_sum = self._loop_weight.to(m.dtype).unsqueeze(-1)
            if self._is_drawn is not None:
                in_sum = loop * (1 - n["drawn"]) + n["drawn"]
            m = m * count - n["z"] * (n["scale"].square() * (in_sum * count - loop))
        h = m if self._project_first else self.lin(m)
        return h if self.bias is None else h.add_(self.bias)  # not saved for backward

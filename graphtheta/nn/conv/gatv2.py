"""GATv2: attention that ranks neighbours by the node that asks (Brody, Alon, Yahav, ICLR 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.nn.init import glorot
from graphtheta.nn.linear import Linear, add_bias
from graphtheta.tgar import TGARLayer, keep

__all__ = ["GATv2Conv"]


class GATv2Conv(TGARLayer):
    """h_i = sum over j of softmax_j(a . leaky_relu(W_l h_j + W_r h_i + V e)) W_l h_j.

    Parameter names equal PyG's `GATv2Conv`. Arguments and shapes as of `GATConv`.
    """

    aggregator = "softmax"
    self_loops = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        edge_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.channels, self.concat = heads, out_channels, concat
        self.negative_slope, self.dropout, self.edge_dim = negative_slope, dropout, edge_dim
        self.lin_l = Linear(in_channels, heads * out_channels)
        self.lin_r = Linear(in_channels, heads * out_channels)
        self.att = nn.Parameter(torch.empty(1, heads, out_channels))
        self.bias = nn.Parameter(torch.zeros(heads * out_channels if concat else out_channels))
        for linear in (self.lin_l, self.lin_r):
            glorot(linear.weight)
            nn.init.zeros_(linear.bias)
        glorot(self.att)
        if edge_dim is not None:
            self.lin_edge = nn.Linear(edge_dim, heads * out_channels, bias=False)
            glorot(self.lin_edge.weight)

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        """Project as a source and as a destination."""
        shape = (-1, self.heads, self.channels)
        return {"l": self.lin_l(h).view(shape), "r": self.lin_r(h).view(shape)}

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        """Send the source's projection, weighted by attention."""
        both = src["l"] + dst["r"]
        if self.edge_dim is not None:
            both = both + self.lin_edge(edge["attr"]).view(-1, self.heads, self.channels)
        score = (F.leaky_relu(both, self.negative_slope) * self.att).sum(-1)
        message = src["l"]
        if self.dropout:
            message = message * keep(self.dropout, self.heads).unsqueeze(-1)
        return score, message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        """Join the heads and add the bias."""
        return add_bias(m.flatten(1) if self.concat else m.mean(1), self.bias)

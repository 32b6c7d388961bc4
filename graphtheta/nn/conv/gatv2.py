"""GATv2: attention whose order of neighbours depends on the node (Brody et al., ICLR 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.nn.conv.attention import AttentionLayer
from graphtheta.nn.init import glorot
from graphtheta.nn.linear import Linear, add_bias

__all__ = ["GATv2Conv"]


class GATv2Conv(AttentionLayer):
    """h_i = sum over j of softmax_j(a . leaky_relu(W_l h_j + W_r h_i + V e)) W_l h_j.

    j runs over N(i) and i itself. Parameter names equal PyG's `GATv2Conv`. Arguments and shapes are
    those of `GATConv`.
    """

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
        super().__init__(
            out_channels, heads=heads, concat=concat, dropout=dropout, edge_dim=edge_dim
        )
        self.negative_slope = negative_slope
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
        return {"l": self.by_head(self.lin_l(h)), "r": self.by_head(self.lin_r(h))}

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        both = src["l"] + dst["r"]
        if self.edge_dim is not None:
            both = both + self.by_head(self.lin_edge(edge["attr"]))
        score = (F.leaky_relu(both, self.negative_slope) * self.att).sum(-1)
        return score, self.drop_coefficients(src["l"])

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        return add_bias(self.join_heads(m), self.bias)

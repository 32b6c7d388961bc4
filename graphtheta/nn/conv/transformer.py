"""Graph transformer: dot-product attention (Shi et al., IJCAI 2021; arXiv 2009.03509)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.nn.conv.attention import AttentionLayer
from graphtheta.nn.linear import Linear

__all__ = ["TransformerConv"]


class TransformerConv(AttentionLayer):
    """h_i = W_1 h_i + sum over j in N(i) of softmax_j(q_i . (k_j + W_6 e) / sqrt(C)) (v_j + W_6 e).

    Query, key and value of each head are q = W_3 h, k = W_4 h and v = W_2 h. With m_i the sum and
    r_i = W_1 h_i, beta gives b r_i + (1 - b) m_i instead, b = sigmoid(w_5 . [m_i, r_i, m_i - r_i]).
    Parameter names equal PyG's `TransformerConv`, which has W_1 also without root_weight.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of each head (C).
        heads: Number of heads (K).
        concat: Whether to concatenate the heads; if False, they are averaged.
        beta: Whether a gate weighs the node itself against its neighbours; needs root_weight.
        dropout: Probability of dropping an attention coefficient.
        edge_dim: Columns of the edge column `attr` (e); if None, edge attributes are not read.
        bias: Whether the linear maps of nodes have a bias.
        root_weight: Whether to add the node itself, W_1 h_i.

    Shape:
        h: (M, in_channels). Returns (M, K C), or (M, C) without concat.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        heads: int = 1,
        concat: bool = True,
        beta: bool = False,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        bias: bool = True,
        root_weight: bool = True,
    ) -> None:
        super().__init__(
            out_channels, heads=heads, concat=concat, dropout=dropout, edge_dim=edge_dim
        )
        self.beta, self.root_weight = beta and root_weight, root_weight
        width = heads * out_channels
        self.lin_key = Linear(in_channels, width, bias=bias)
        self.lin_query = Linear(in_channels, width, bias=bias)
        self.lin_value = Linear(in_channels, width, bias=bias)
        if edge_dim is not None:
            self.lin_edge = nn.Linear(edge_dim, width, bias=False)
        out_width = width if concat else out_channels
        self.lin_skip = Linear(in_channels, out_width, bias=bias)
        if self.beta:
            self.lin_beta = nn.Linear(3 * out_width, 1, bias=False)

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        return {
            "h": h,
            "query": self.by_head(self.lin_query(h)) / math.sqrt(self.channels),
            "key": self.by_head(self.lin_key(h)),
            "value": self.by_head(self.lin_value(h)),
        }

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        key, message = src["key"], src["value"]
        if self.edge_dim is not None:
            from_edge = self.by_head(self.lin_edge(edge["attr"]))
            key, message = key + from_edge, message + from_edge
        return (dst["query"] * key).sum(-1), self.drop_coefficients(message)

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        m = self.join_heads(m)
        if not self.root_weight:
            return m
        root: Tensor = self.lin_skip(n["h"])
        if not self.beta:
            return m + root
        gate: Tensor = self.lin_beta(torch.cat([m, root, m - root], -1)).sigmoid()
        return gate * root + (1 - gate) * m

"""Graph transformer: attention by dot products (Shi et al., IJCAI 2021; arXiv 2009.03509)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.nn.linear import Linear
from graphtheta.tgar import TGARLayer, keep

__all__ = ["TransformerConv"]


class TransformerConv(TGARLayer):
    """h_i = W_1 h_i + sum over j in N(i) of softmax_j(q_i . (k_j + W_6 e) / sqrt(C)) (v_j + W_6 e).

    Query, key and value are q = W_3 h, k = W_4 h and v = W_2 h, a head. With m_i the sum and
    r_i = W_1 h_i, beta gives instead b r_i + (1 - b) m_i, b = sigmoid(w_5 . [m_i, r_i, m_i - r_i]).
    Parameter names equal PyG's `TransformerConv`, which keeps W_1 without root_weight as well.

    Args:
        in_channels: Columns of h.
        out_channels: Columns a head (C).
        heads: K.
        concat: Concatenate heads, or else average them.
        beta: Weigh the node itself against its neighbours by a gate; without root_weight nothing.
        dropout: Probability of dropping an attention coefficient.
        edge_dim: Columns of the edge column `attr` (e); None leaves edge attributes out.
        bias: Whether the linear maps of nodes add one.
        root_weight: Whether the node itself is added.

    Shape:
        h: (M, in_channels). Returns (M, K C), or (M, C) without concat.
    """

    aggregator = "softmax"

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
        super().__init__()
        self.heads, self.channels, self.concat = heads, out_channels, concat
        self.beta, self.root_weight = beta and root_weight, root_weight
        self.dropout, self.edge_dim = dropout, edge_dim
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
        """Project to query (divided by sqrt(C)), key and value, a head."""
        shape = (-1, self.heads, self.channels)
        return {
            "h": h,
            "query": self.lin_query(h).view(shape) / math.sqrt(self.channels),
            "key": self.lin_key(h).view(shape),
            "value": self.lin_value(h).view(shape),
        }

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        """Send the value, weighted by how well the key answers the query."""
        key, message = src["key"], src["value"]
        if self.edge_dim is not None:
            from_edge = self.lin_edge(edge["attr"]).view(-1, self.heads, self.channels)
            key, message = key + from_edge, message + from_edge
        if self.dropout:
            message = message * keep(self.dropout, self.heads).unsqueeze(-1)
        return (dst["query"] * key).sum(-1), message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        """Join the heads, and add the node itself or weigh it by the gate."""
        m = m.flatten(1) if self.concat else m.mean(1)
        if not self.root_weight:
            return m
        root: Tensor = self.lin_skip(n["h"])
        if not self.beta:
            return m + root
        gate: Tensor = self.lin_beta(torch.cat([m, root, m - root], -1)).sigmoid()
        return gate * root + (1 - gate) * m

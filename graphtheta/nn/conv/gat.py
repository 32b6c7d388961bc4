"""GAT: graph attention (Velickovic et al., ICLR 2018); edge attributes in the score if asked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.nn.init import glorot
from graphtheta.nn.linear import Linear, add_bias, linear
from graphtheta.tgar import TGARLayer, keep

__all__ = ["GATConv"]


class GATConv(TGARLayer):
    """h_i = sum over j of softmax_j(leaky_relu(a_s W h_j + a_d W h_i + a_e V e_ij)) W h_j.

    j runs over N(i) and i itself.

    Parameter names equal PyG's `GATConv`. A self-loop's edge attributes are the mean of the node's
    in-edges. The score is written as the equation is: since a_e . (V e) = (a_e V) . e, a compiler
    of `gather` can fold V into a_e, and no edge then needs K C numbers.

    Args:
        in_channels: Columns of h.
        out_channels: Columns a head (C).
        heads: K.
        concat: Concatenate heads, or else average them.
        negative_slope: Of leaky_relu.
        dropout: Probability of dropping an attention coefficient.
        edge_dim: Columns of the edge column `attr`; None leaves edge attributes out.

    Shape:
        h: (M, in_channels). Returns (M, K C), or (M, C) without concat.
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
        self.lin = Linear(in_channels, heads * out_channels, bias=False)
        self.att_src = nn.Parameter(torch.empty(1, heads, out_channels))
        self.att_dst = nn.Parameter(torch.empty(1, heads, out_channels))
        glorot(self.lin.weight)
        glorot(self.att_src)
        glorot(self.att_dst)
        if edge_dim is not None:
            self.lin_edge = nn.Linear(edge_dim, heads * out_channels, bias=False)
            self.att_edge = nn.Parameter(torch.empty(1, heads, out_channels))
            glorot(self.lin_edge.weight)
            glorot(self.att_edge)
        self.bias = nn.Parameter(torch.zeros(heads * out_channels if concat else out_channels))

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        """Project, and reduce to what a node adds to a score as source and as destination."""
        z = self.lin(h)
        a, b = torch.split(linear(z, self._to_scores()), self.heads, dim=1)
        return {"z": z.view(-1, self.heads, self.channels), "a": a, "b": b}

    def _to_scores(self) -> Tensor:
        """Return both attention vectors as one matrix, (2 K, K C), zero across heads.

        One product reads z once, where two products and sums an element would walk it six times.
        """
        ends = torch.cat([self.att_src, self.att_dst])  # (2, K, C)
        own = torch.eye(self.heads, dtype=ends.dtype, device=ends.device)
        return (ends.unsqueeze(1) * own.unsqueeze(-1)).reshape(2 * self.heads, -1)

    def score(self, src: Any, dst: Any, edge: Any) -> Tensor:
        """Return the unnormalised attention of an edge, a head: (E, K)."""
        score = src["a"] + dst["b"]
        if self.edge_dim is not None:
            projected = self.lin_edge(edge["attr"]).view(-1, self.heads, self.channels)
            score = score + (projected * self.att_edge).sum(-1)
        return F.leaky_relu(score, self.negative_slope)

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        """Send the projection, weighted by attention."""
        return self.score(src, dst, edge), self.dropped(src["z"])

    def dropped(self, message: Tensor) -> Tensor:
        """Drop attention coefficients, which after the softmax are factors of the message."""
        if not self.dropout:
            return message
        return message * keep(self.dropout, self.heads).unsqueeze(-1)

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        """Join the heads and add the bias."""
        return add_bias(m.flatten(1) if self.concat else m.mean(1), self.bias)

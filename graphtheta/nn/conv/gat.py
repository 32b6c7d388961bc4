"""GAT, GATv2 and GAT-E: graph attention, optionally with edge attributes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.errors import ConfigError
from graphtheta.nn.conv.attention import AttentionLayer
from graphtheta.nn.init import glorot
from graphtheta.nn.linear import Linear, add_bias, linear

__all__ = ["GATConv", "GATEConv", "GATv2Conv"]


class GATConv(AttentionLayer):
    """h_i = sum over j of softmax_j(leaky_relu(a_s W h_j + a_d W h_i + a_e V e_ij)) W h_j.

    j runs over N(i) and i itself. Parameter names equal PyG's `GATConv`.

    The score is written as in the equation. Since a_e . (V e) = (a_e V) . e, the compiler of
    `gather` can fold V into a_e, and then computes no K C numbers for each edge.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of each head (C).
        heads: Number of heads (K).
        concat: Whether to concatenate the heads; if False, they are averaged.
        negative_slope: Slope of leaky_relu for negative scores.
        dropout: Probability of dropping an attention coefficient.
        edge_dim: Columns of the edge column `attr`; if None, edge attributes are not read.
        add_self_loops: Whether i itself is part of the sum, and the graph's own self-loops are
            replaced.
        fill_value: Edge attributes of self-loops: a number, or "mean" of those of the node's
            in-edges.
        bias: Whether to add a bias.
        residual: Whether to add a linear map of h_i.

    Raises:
        ConfigError: If there is no head, or fill_value is another one.

    Shape:
        h: (M, in_channels). Returns (M, K C), or (M, C) without concat.

    Source:
        Velickovic et al., ICLR 2018.
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
        add_self_loops: bool = True,
        fill_value: float | str = "mean",
        bias: bool = True,
        residual: bool = False,
    ) -> None:
        super().__init__(
            out_channels, heads=heads, concat=concat, dropout=dropout, edge_dim=edge_dim
        )
        self.negative_slope, self.self_loops = negative_slope, add_self_loops
        if fill_value != "mean":
            if isinstance(fill_value, str):
                raise ConfigError(
                    f"{type(self).__name__}: expected fill_value to be a number or 'mean', got "
                    f"{fill_value!r}. Choose one of them."
                )
            self.loop_values = {"attr": fill_value}
        self.make(in_channels)
        width = heads * out_channels if concat else out_channels
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.res = Linear(in_channels, width, bias=False) if residual else None
        if self.res is not None:
            glorot(self.res.weight)

    def make(self, in_channels: int) -> None:
        """Create the parameters, except the bias."""
        heads, out_channels, edge_dim = self.heads, self.channels, self.edge_dim
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

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        z = self.lin(h)
        a, b = torch.split(linear(z, self._score_weight()), self.heads, dim=1)
        return {"z": self.by_head(z), "a": a, "b": b, **self.root(h)}

    def root(self, h: Tensor) -> dict[str, Tensor]:
        """Return the field that the residual reads, if there is one."""
        return {} if self.res is None else {"h": h}

    def _score_weight(self) -> Tensor:
        """Return both attention vectors as one matrix, (2 K, K C), zero across heads.

        One matrix product reads z once, where two products and two sums would read it six times.
        """
        vectors = torch.cat([self.att_src, self.att_dst])  # (2, K, C)
        own = torch.eye(self.heads, dtype=vectors.dtype, device=vectors.device)
        return (vectors.unsqueeze(1) * own.unsqueeze(-1)).reshape(2 * self.heads, -1)

    def score(self, src: Any, dst: Any, edge: Any) -> Tensor:
        """Return the attention scores of an edge before the softmax: (E, K)."""
        score = src["a"] + dst["b"]
        if self.edge_dim is not None:
            projected = self.by_head(self.lin_edge(edge["attr"]))
            score = score + (projected * self.att_edge).sum(-1)
        return F.leaky_relu(score, self.negative_slope)

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        return self.score(src, dst, edge), self.drop_coefficients(src["z"])

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        out = self.join_heads(m)
        if self.res is not None:
            out = out + self.res(n["h"])
        return out if self.bias is None else add_bias(out, self.bias)


class GATv2Conv(GATConv):
    """h_i = sum over j of softmax_j(a . leaky_relu(W_l h_j + W_r h_i + V e)) W_l h_j.

    The order of neighbours by their scores depends on the node. j runs over N(i) and i itself.
    Parameter names equal PyG's `GATv2Conv`. Shapes are those of `GATConv`.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of each head (C).
        share_weights: Whether W_r is W_l.
        options: Other arguments of `GATConv`.

    Source:
        Brody, Alon, Yahav, ICLR 2022.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, share_weights: bool = False, **options: Any
    ) -> None:
        self._shares_weights, self._has_bias = share_weights, options.get("bias", True)
        super().__init__(in_channels, out_channels, **options)

    def make(self, in_channels: int) -> None:
        heads, out_channels = self.heads, self.channels
        self.lin_l = Linear(in_channels, heads * out_channels, bias=self._has_bias)
        self.lin_r = self.lin_l
        if not self._shares_weights:
            self.lin_r = Linear(in_channels, heads * out_channels, bias=self._has_bias)
        self.att = nn.Parameter(torch.empty(1, heads, out_channels))
        for projection in (self.lin_l, self.lin_r):
            glorot(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        glorot(self.att)
        if self.edge_dim is not None:
            self.lin_edge = nn.Linear(self.edge_dim, heads * out_channels, bias=False)
            glorot(self.lin_edge.weight)

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        left = self.by_head(self.lin_l(h))
        right = left if self._shares_weights else self.by_head(self.lin_r(h))
        return {"l": left, "r": right, **self.root(h)}

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        both = src["l"] + dst["r"]
        if self.edge_dim is not None:
            both = both + self.by_head(self.lin_edge(edge["attr"]))
        score = (F.leaky_relu(both, self.negative_slope) * self.att).sum(-1)
        return score, self.drop_coefficients(src["l"])


class GATEConv(GATConv):
    """GAT in which the message from j over edge e is W h_j + U e, and the score reads e as well.

    The GraphTheta paper names this layer for edge-attributed graphs without giving an equation;
    this is the natural extension of GAT.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of each head (C).
        edge_dim: Columns of the edge column `attr`.
        options: Other arguments of `GATConv`.

    Shape:
        h: (M, in_channels). Returns (M, K C), or (M, C) without concat.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, edge_dim: int, **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, edge_dim=edge_dim, **options)
        self.lin_message = nn.Linear(edge_dim, self.heads * out_channels, bias=False)
        glorot(self.lin_message.weight)

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        message = src["z"] + self.by_head(self.lin_message(edge["attr"]))
        return self.score(src, dst, edge), self.drop_coefficients(message)

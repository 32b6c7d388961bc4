"""R-GAT: attention over all relations (Busbridge et al., arXiv 1904.05811)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.nn.conv.attention import AttentionLayer
from graphtheta.nn.conv.rgcn import (
    by_matrices,
    of_relation,
    relation_matrices,
    require_relations,
)
from graphtheta.nn.init import glorot
from graphtheta.nn.linear import add_bias
from graphtheta.shard.sparse_rows import is_sparse_rows
from graphtheta.tgar.batch.view import LayerView

__all__ = ["RGATConv"]


class RGATConv(AttentionLayer):
    """h_i = sum over in-edges (j, r) of softmax(leaky_relu(q . W_r h_i + k . W_r h_j)) W_r h_j.

    The relation r is the edge column `type`, and the softmax of each head is over the in-edges of
    all relations. Parameter names and results equal those of PyG's `RGATConv` with additive
    attention across relations. A mirror receives h, and in a vertex-cut one score for each relation
    and head.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of each head (C).
        num_relations: Number of relations (R).
        num_bases: Number of matrices that the W_r are combinations of; if None, each relation has
            its own matrix.
        heads: Number of heads (K).
        concat: Whether to concatenate the heads; if False, they are averaged.
        negative_slope: Slope of leaky_relu below 0.
        dropout: Probability of dropping an attention coefficient.
        edge_dim: Columns of the edge column `attr`, which adds to the score; if None, edge
            attributes are not read.
        bias: Whether to add a bias.

    Raises:
        ConfigError: If an edge of the graph has a type of R or more.

    Shape:
        h: (M, in_channels). Returns (M, K C), or (M, C) without concat.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_relations: int,
        num_bases: int | None = None,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(
            out_channels, heads=heads, concat=concat, dropout=dropout, edge_dim=edge_dim
        )
        self.num_relations, self.num_bases = num_relations, num_bases
        self._is_multiplied = False
        self.negative_slope = negative_slope
        width = heads * out_channels
        if num_bases is None:
            self.weight = nn.Parameter(torch.empty(num_relations, in_channels, width))
            glorot(self.weight)
        else:
            self.basis = nn.Parameter(torch.empty(num_bases, in_channels, width))
            self.att = nn.Parameter(torch.empty(num_relations, num_bases))
            glorot(self.basis)
            glorot(self.att)
        self.q = nn.Parameter(torch.empty(width, heads))
        self.k = nn.Parameter(torch.empty(width, heads))
        glorot(self.q)
        glorot(self.k)
        if edge_dim is not None:
            self.lin_edge = nn.Linear(edge_dim, width, bias=False)
            self.e = nn.Parameter(torch.empty(width, heads))
            glorot(self.lin_edge.weight)
            glorot(self.e)
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.zeros(width if concat else out_channels))

    def forward(self, view: LayerView, h: Any) -> Any:
        require_relations("rgat", view, self.num_relations)
        return super().forward(view, h)

    def _matrices(self) -> Tensor:
        """Return the W_r: (R, in_channels, K C)."""
        if self.num_bases is None:
            return self.weight
        return relation_matrices(self.att, self.basis)

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        matrices = self._matrices()
        # The products of sparse rows by all matrices, if they have fewer columns than the rows.
        self._is_multiplied = is_sparse_rows(h) and matrices[:, 0].numel() <= matrices.shape[1]
        if self._is_multiplied:
            z = by_matrices(h, matrices)
            return {"z": z, "key": z @ self.k, "query": z @ self.q}
        queries = (matrices @ self.q).transpose(0, 1).flatten(1)  # (in_channels, R K)
        return {"h": h, "query": (h @ queries).view(-1, self.num_relations, self.heads)}

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        relation, matrices = edge["type"].long(), self._matrices()
        score = of_relation(dst["query"], relation, self.heads)
        if self._is_multiplied:
            key = of_relation(src["key"], relation, self.heads)
            z = of_relation(src["z"], relation, self.heads * self.channels)
        else:
            key = torch.einsum("ef,efk->ek", src["h"], (matrices @ self.k)[relation])
            z = torch.einsum("ef,efo->eo", src["h"], matrices[relation])
        score = score + key
        if self.edge_dim is not None:
            score = score + edge["attr"] @ (self.lin_edge.weight.t() @ self.e)
        message = self.by_head(z)
        return F.leaky_relu(score, self.negative_slope), self.drop_coefficients(message)

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        m = self.join_heads(m)
        return m if self.bias is None else add_bias(m, self.bias)

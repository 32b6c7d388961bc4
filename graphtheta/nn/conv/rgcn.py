"""R-GCN: a weight matrix for each relation (Schlichtkrull et al., ESWC 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.init import glorot
from graphtheta.nn.linear import linear
from graphtheta.shard.sparse_rows import is_sparse_rows
from graphtheta.tgar import TGARLayer
from graphtheta.tgar.batch.view import LayerView
from graphtheta.tgar.mixed_precision import is_autocast
from graphtheta.wording import counted

__all__ = [
    "RGCNConv",
    "by_matrices",
    "of_relation",
    "relation_matrices",
    "require_relations",
]


class RGCNConv(TGARLayer):
    """h_i = root h_i + sum over relations r of the mean of W_r h_j over j in N_r(i), plus a bias.

    The relation is the edge column `type`. The mean is over the in-edges of the whole graph or, if
    in-edges are sampled, over the sampled ones. Parameter names equal PyG's `RGCNConv`. A mirror
    receives the in_channels columns of h; products are computed for the pairs of a node and a
    relation that occur, and neither for each edge nor for each node and relation.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result (O).
        num_relations: Number of relations (R).
        num_bases: Number of matrices that the W_r are combinations of; if None, each relation has
            its own matrix.
        num_blocks: Number of blocks on the diagonal of each W_r, which is 0 elsewhere; if None, the
            whole matrix is learned. It divides both numbers of channels.
        aggr: "mean", of the messages of each relation, or "sum" (or "add").
        root_weight: Whether to add root h_i.
        bias: Whether to add a bias.

    Raises:
        ConfigError: If both bases and blocks are given, the blocks do not divide the channels, aggr
            is another one, or an edge of the graph has a type of R or more.

    Shape:
        h: (M, in_channels). Returns (M, O).
    """

    aggregator = "sum"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_relations: int,
        num_bases: int | None = None,
        num_blocks: int | None = None,
        aggr: str = "mean",
        root_weight: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if aggr not in ("mean", "sum", "add"):
            raise ConfigError(
                f"rgcn: expected aggr 'mean' or 'sum', got {aggr!r}. Choose one, or use HeteroConv "
                "of SAGEConv layers in a graph of several relations."
            )
        if num_bases is not None and num_blocks is not None:
            raise ConfigError(
                f"rgcn: expected bases or blocks, got {num_bases} bases and {num_blocks} blocks. "
                "Give one of them."
            )
        if num_blocks is not None and (in_channels % num_blocks or out_channels % num_blocks):
            raise ConfigError(
                f"rgcn: expected num_blocks to divide {in_channels} and {out_channels} channels, "
                f"got {num_blocks}. Give a common divisor."
            )
        self.num_relations, self.num_bases, self.num_blocks = num_relations, num_bases, num_blocks
        self.aggr, self._is_multiplied = aggr, False
        self.node_columns = ("in_degree_by_type",) if aggr == "mean" else ()
        shape = in_channels, out_channels
        if num_blocks is not None:
            shape = in_channels // num_blocks, out_channels // num_blocks
            self.weight = nn.Parameter(torch.empty(num_relations, num_blocks, *shape))
        else:
            count = num_relations if num_bases is None else num_bases
            self.weight = nn.Parameter(torch.empty(count, *shape))
        if num_bases is not None:
            self.comp = nn.Parameter(torch.empty(num_relations, num_bases))
            glorot(self.comp)
        self.root: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        glorot(self.weight)
        if root_weight:
            self.root = nn.Parameter(torch.empty(in_channels, out_channels))
            glorot(self.root)
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, view: LayerView, h: Any) -> Any:
        require_relations("rgcn", view, self.num_relations)
        return super().forward(view, h)

    def transform(self, h: Tensor, node: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        fields = {"h": h}
        # The products of sparse rows by all matrices, if they have fewer columns than the rows.
        self._is_multiplied = (
            is_sparse_rows(h)
            and self.num_blocks is None
            and len(self.weight) * self.weight.shape[2] <= self.weight.shape[1]
        )
        if self._is_multiplied:
            fields["products"] = by_matrices(h, self.weight)
        if node is not None:
            fields["share"] = torch.ones((), dtype=h.dtype) / node["in_degree_by_type"].clamp(min=1)
        return fields

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        relation = edge["type"].long()
        if not self._is_multiplied:
            message = self._message(src["h"], relation)
        elif self.num_bases is None:
            message = of_relation(src["products"], relation, self.weight.shape[2])
        else:
            message = (src["products"] * self.comp[relation].unsqueeze(-1)).sum(1)
        if self.aggr == "mean":
            message = message * dst["share"].gather(1, relation.unsqueeze(-1))
        return message

    def _message(self, h: Tensor, relation: Tensor) -> Tensor:
        """Return the product of each edge's source by the matrix of its relation."""
        if self.num_blocks is not None:
            h = h.view(-1, *self.weight.shape[1:3])
            return torch.einsum("ebf,ebfo->ebo", h, self.weight[relation]).flatten(1)
        bases = self.num_bases is not None
        weight = relation_matrices(self.comp, self.weight) if bases else self.weight
        return torch.einsum("ef,efo->eo", h, weight[relation])

    def own_matrix(self) -> Tensor | None:
        mixed = self.root is None or is_autocast(self.root.device.type)
        return None if self._is_multiplied or mixed else self.root

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        if self.root is not None and not self.has_own_term:
            m = linear(n["h"], self.root.t(), m)
        return m if self.bias is None else m.add_(self.bias)


def relation_matrices(coefficients: Tensor, bases: Tensor) -> Tensor:
    """Return a matrix for each relation: (R, B) coefficients of (B, A, O) bases give (R, A, O)."""
    return (coefficients @ bases.flatten(1)).view(-1, *bases.shape[1:])


def by_matrices(h: Tensor, matrices: Tensor) -> Tensor:
    """Return the products of all rows by all matrices.

    Shape:
        h: (N, A). matrices: (R, A, O). Returns (N, R, O).
    """
    joined = matrices.transpose(0, 1).flatten(1)
    return (h @ joined).view(-1, len(matrices), matrices.shape[2])


def of_relation(products: Tensor, relation: Tensor, width: int) -> Tensor:
    """Return the product of each edge's source by the matrix of its relation: (E, O).

    Args:
        products: (E, R, O) products by all matrices.
        relation: (E,) relation of each edge.
        width: Columns of a product (O).
    """
    return products.gather(1, relation.view(-1, 1, 1).expand(-1, 1, width)).squeeze(1)


def require_relations(layer: str, view: LayerView, num_relations: int) -> None:
    """Raise a ConfigError if the graph has more edge types than a layer has relations."""
    found = view.shard.num_edge_types
    if found > num_relations:
        raise ConfigError(
            f"{layer}: expected edge types below num_relations = {num_relations}, got "
            f"{counted(found, 'type')} in the graph. Give num_relations={found}."
        )

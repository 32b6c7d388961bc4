"""R-GCN: a weight matrix for each relation (Schlichtkrull et al., ESWC 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.init import glorot
from graphtheta.tgar import TGARLayer

__all__ = ["RGCNConv"]


class RGCNConv(TGARLayer):
    """h_i = root h_i + sum over relations r of the mean of W_r h_j over j in N_r(i), plus a bias.

    The relation is the edge column `type`. The mean is over the in-edges of the whole graph or, if
    in-edges are sampled, over the sampled ones. Parameter names equal PyG's `RGCNConv`. Messages
    are projected per node, so that a mirror receives B out_channels numbers (with bases) or
    R out_channels numbers (without), and an edge only selects among them.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result (O).
        num_relations: Number of relations (R).
        num_bases: Number of matrices (B) that the W_r are combinations of; if None, each relation
            has its own matrix.

    Raises:
        ConfigError: If an edge of the graph has a type of R or more.

    Shape:
        h: (M, in_channels). Returns (M, O).
    """

    aggregator = "sum"
    node_columns = ("in_degree_by_type",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_relations: int,
        num_bases: int | None = None,
    ) -> None:
        super().__init__()
        self.num_relations, self.num_bases = num_relations, num_bases
        count = num_relations if num_bases is None else num_bases
        self.weight = nn.Parameter(torch.empty(count, in_channels, out_channels))
        if num_bases is not None:
            self.comp = nn.Parameter(torch.empty(num_relations, num_bases))
            glorot(self.comp)
        self.root = nn.Parameter(torch.empty(in_channels, out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        glorot(self.weight)
        glorot(self.root)

    def transform(self, h: Tensor, node: Mapping[str, Tensor]) -> dict[str, Tensor]:
        counts = node["in_degree_by_type"]
        if counts.shape[1] > self.num_relations:
            raise ConfigError(
                f"rgcn: expected edge types below num_relations = {self.num_relations}, got "
                f"{counts.shape[1]} types in the graph. Give num_relations={counts.shape[1]}."
            )
        z = (h @ self.weight.transpose(0, 1).flatten(1)).view(h.shape[0], *self.weight.shape[::2])
        share = counts.to(h.dtype).clamp(min=1).reciprocal()
        return {"h": h, "z": z, "share": share}

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        relation = edge["type"].long().unsqueeze(-1)
        if self.num_bases is None:
            index = relation.unsqueeze(-1).expand(-1, 1, src["z"].shape[-1])
            message = src["z"].gather(1, index).squeeze(1)
        else:
            message = (src["z"] * self.comp[relation.squeeze(-1)].unsqueeze(-1)).sum(1)
        result: Tensor = message * dst["share"].gather(1, relation)
        return result

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        return m + n["h"] @ self.root + self.bias

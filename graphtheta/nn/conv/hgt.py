"""Heterogeneous graph transformer (Hu, Dong, Wang, Sun, WWW 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.data.types import Relation
from graphtheta.nn.conv.attention import require_heads
from graphtheta.nn.typed_linear import TypedLinear
from graphtheta.tgar import TGARLayer

__all__ = ["HGTConv"]


class HGTConv(TGARLayer):
    """h_i = s A_t gelu(sum over j of softmax_j(p_r q_i . K_r k_j / sqrt(D)) V_r v_j) + (1 - s) h_i.

    j runs over the in-neighbours of i by all relations r, and t is the type of i. Keys, queries and
    values are linear maps of h with weights for each node type; K_r and V_r are matrices of a
    relation and head. s = sigmoid(skip_t); without in_channels = out_channels, s is 1. Equal to
    PyG's `HGTConv`, except that types in which no relation ends keep their rows (or, if the widths
    differ, get zeros), where PyG drops them.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result: a multiple of heads.
        metadata: Names of the node types, and the relations, of the graph: `shard.metadata`.
        heads: Number of heads.

    Shape:
        h: (I, in_channels). Returns (O, out_channels).
    """

    aggregator = "softmax"
    node_columns = ("node_type",)

    receives: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        metadata: tuple[Sequence[str], Sequence[Relation | tuple[str, str, str]]],
        *,
        heads: int = 1,
    ) -> None:
        super().__init__()
        require_heads("HGTConv", heads, out_channels)
        types, relations = list(metadata[0]), [Relation.of(one) for one in metadata[1]]
        self.heads, self.channels = heads, out_channels // heads
        self.num_relations = len(relations)
        self.keeps_rows = in_channels == out_channels
        self.kqv_lin = TypedLinear(in_channels, 3 * out_channels, len(types))
        self.out_lin = TypedLinear(out_channels, out_channels, len(types))
        matrices = len(relations), heads, self.channels, self.channels
        self.k_rel, self.v_rel = (nn.Parameter(torch.empty(matrices)) for _ in range(2))
        bound = 1 / math.sqrt(self.channels)
        for matrix in (self.k_rel, self.v_rel):
            nn.init.uniform_(matrix, -bound, bound)
        self.p_rel = nn.Parameter(torch.ones(len(relations), heads))
        self.skip = nn.Parameter(torch.ones(len(types))) if self.keeps_rows else None
        ends = {relation.destination for relation in relations}
        receives = torch.tensor([name in ends for name in types])
        self.register_buffer("receives", receives, persistent=False)

    def transform(self, h: Tensor, node: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kqv = self.kqv_lin(h, node["node_type"]).view(len(h), 3, self.heads, self.channels)
        key, query, value = kqv.unbind(1)
        return {"h": h, "type": node["node_type"], "key": key, "query": query, "value": value}

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        # With one relation, edges may have types of the user's, or none.
        relation = edge["type"].long() if self.num_relations > 1 else 0
        key = (src["key"].unsqueeze(-2) @ self.k_rel[relation]).squeeze(-2)
        value = (src["value"].unsqueeze(-2) @ self.v_rel[relation]).squeeze(-2)
        score = (dst["query"] * key).sum(-1) * self.p_rel[relation] / math.sqrt(self.channels)
        return score, value

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        out: Tensor = self.out_lin(nn.functional.gelu(m.flatten(1)), n["type"])
        share = self.receives.to(out.dtype)  # 0 keeps the rows of types in which no relation ends
        if self.skip is None:
            return out * share[n["type"]].unsqueeze(-1)
        return torch.lerp(n["h"], out, (share * self.skip.sigmoid())[n["type"]].unsqueeze(-1))

"""Learned vectors for the categories of node columns, as input in addition to features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphtheta.data.encode.categorical import Embedding
from graphtheta.nn.embedding import InputModule
from graphtheta.nn.init import seeded
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View

__all__ = ["CategoryVectors", "ColumnEmbedding"]


class CategoryVectors(nn.Module):
    """Vectors of the categories of all embedded columns of a node type, one column after the other.

    The vectors are ordinary parameters, equal on all workers. That of number 0, for unseen, rare
    and missing categories, is zero at first.

    Args:
        shard: Graph whose recipe has the columns.
        node_type: Name of the type. If None, the only type of the graph.
        seed: Random seed for the initial values: uniform, so that a vector has length 1/3.
    """

    def __init__(self, shard: Shard, node_type: str | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.node_type = node_type
        columns = shard.embedded_columns(node_type)
        self.columns = tuple(columns)
        with seeded(seed, f"columns of {node_type or 'nodes'}"):
            self.tables = nn.ModuleList(_table(encoder) for encoder in columns.values())

    def forward(self, shard: Shard, rows: Tensor | None) -> list[Tensor]:
        """Return the vectors of some masters of the type.

        Args:
            shard: The graph: that of the constructor, or another one of the same recipe.
            rows: (R,) int64 positions among the masters of the type. If None, all of them.

        Shape:
            Returns a tensor (R, channels) for each column.
        """
        found = []
        for name, table in zip(self.columns, self.tables, strict=True):
            codes = shard.codes_of(name, self.node_type)
            found.append(table(codes if rows is None else codes.index_select(0, rows)))
        return found


def _table(encoder: Embedding) -> nn.Embedding:
    table = nn.Embedding(encoder.num_codes, encoder.channels)
    bound = 1 / math.sqrt(3 * encoder.channels)
    nn.init.uniform_(table.weight, -bound, bound)
    with torch.no_grad():
        table.weight[0] = 0
    return table


class ColumnEmbedding(InputModule):
    """Learned vector for each category of the node columns that are encoded as embeddings.

    Such columns are those of `--features NAME:embedding(CHANNELS)`. The model can be applied to
    another graph that was partitioned by the same recipe (`--like`). In a graph of several node
    types, `TypedInput` does this.

    Args:
        shard: Graph of the nodes.
        encoder: Called as encoder(view, x), where x holds the features of the graph, if it has
            any, followed by `shard.embedding_channels()` columns. If None, x is returned.
        seed: Random seed for the initial vectors.
    """

    def __init__(self, shard: Shard, encoder: nn.Module | None = None, *, seed: int = 0) -> None:
        super().__init__(encoder)
        self.vectors = CategoryVectors(shard, seed=seed)

    def inputs(self, view: View, x: Tensor) -> Tensor:
        rows = view.blocks[0].row_index if view.blocks else None
        found = self.vectors(view.shard, rows)
        return torch.cat([x, *found] if x.shape[1] else found, dim=1) if found else x

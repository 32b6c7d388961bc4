"""In-degrees within a batch, for normalisation that ignores the rest of the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphtheta.tgar.batch.block import Block

__all__ = ["Degrees"]


class Degrees:
    """In-degrees of a block's outputs, counted over the block's edges.

    Args:
        block: Block whose outputs begin with the inputs of every layer of the batch: the block of
            one more layer below the first.

    Communication:
        In a vertex-cut 8 bytes per mirror when a column is first read; by type, that for each type.
    """

    def __init__(self, block: Block) -> None:
        self._block = block
        self._counted: dict[str, Tensor] = {}

    def column(self, name: str) -> Tensor:
        """Return `in_degree`, `loopless_in_degree` or `in_degree_by_type`; collective.

        Shape:
            Returns (O,) or (O, types) int64.
        """
        if name not in self._counted:
            count = self._by_type() if name == "in_degree_by_type" else self._all(name)
            block = self._block
            if block.shard.is_vertex_cut:
                (count,) = block.shard.channel.sum_at_masters([count], block.destinations)
            self._counted[name] = count
        return self._counted[name]

    def _all(self, name: str) -> Tensor:
        edges = self._block.in_edges
        own = edges.own_edges if name == "loopless_in_degree" else 0
        return self._block.shard.to_device(np.diff(edges.indptr) - own)

    def _by_type(self) -> Tensor:
        block, shard = self._block, self._block.shard
        num_types = max(1, shard.num_edge_types)
        types = block.of_edges(shard.edge_columns["type"]).long()
        rows = torch.repeat_interleave(shard.to_device(np.diff(block.in_edges.indptr)))
        length = block.in_edges.num_rows * num_types
        return torch.bincount(rows * num_types + types, minlength=length).view(-1, num_types)

"""In-edges of a shard or block as tensors, for the chunked executor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.adjacency import Adjacency

__all__ = ["Topology", "without_self_loops"]


@dataclass(frozen=True)
class Topology:
    """In-edges by destination row.

    Attributes:
        indptr: (rows + 1,) int64; row i's edges are [indptr[i], indptr[i + 1]).
        src: (E',) int32 local id of each edge's source.
        edge_key: (E,) int64 keys, of the edges that are left out too.
        position: (E',) int64 position of each edge among those E, or None if none is left out.
    """

    indptr: NDArray[np.int64]
    src: Tensor
    edge_key: Tensor
    position: Tensor | None

    def sums_of_rows(self, column_E: Tensor) -> Tensor:
        """Return the sum of an edge column over the edges of each row; differentiable.

        Shape:
            column_E: (E, ...), of all edges. Returns (rows, ...).
        """
        values = column_E if self.position is None else column_E[self.position]
        degrees = torch.from_numpy(np.diff(self.indptr)).to(values.device)
        zeros = values.new_zeros((len(degrees), *values.shape[1:]))
        return zeros.index_add(0, torch.repeat_interleave(degrees), values)


def without_self_loops(whole: Topology, edges: Adjacency) -> Topology:
    """Return the same rows without their self-loops; `whole` itself if there are none.

    Args:
        whole: All edges.
        edges: The same edges as NumPy arrays.
    """
    rows = np.repeat(np.arange(len(whole.indptr) - 1), np.diff(whole.indptr))
    position = np.flatnonzero(edges.node_of(rows) != edges.other)
    if len(position) == len(rows):
        return whole
    indptr = np.zeros_like(whole.indptr)
    np.cumsum(np.bincount(rows[position], minlength=len(indptr) - 1), out=indptr[1:])
    index = torch.from_numpy(position).to(whole.src.device)
    return Topology(indptr, whole.src[index], whole.edge_key, index)

"""The whole topology on rank 0, for partitioners that are not distributed.

Memory on rank 0: 16 bytes an edge gathered, about 48 at the peak of symmetrising.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.blocks import Blocks
from graphtheta.partition.columns import column_numpy
from graphtheta.partition.distinct import distinct
from graphtheta.partition.shuffle import shuffle
from graphtheta.partition.stream import EdgeStream

__all__ = ["Topology", "place_on_rank_zero"]


@dataclass(frozen=True, slots=True)
class Topology:
    """A simple undirected graph: every neighbour relation both ways, no loops, no repeats.

    Shape:
        indptr: (N + 1,) int64. neighbours: (A,) int64, ascending within a row.
    """

    indptr: NDArray[np.int64]
    neighbours: NDArray[np.int64]


def place_on_rank_zero(
    stream: EdgeStream,
    place: Callable[[Topology], NDArray[np.int32]],
    comm: Communicator,
) -> NDArray[np.int32]:
    """Return the parts of this rank's block of nodes, computed by rank 0 from the whole topology.

    Args:
        stream: This rank's edges.
        place: From a topology to the part of each node; called on rank 0 only.
        comm: The ranks.

    Communication:
        16 bytes an edge to rank 0, 4 bytes a node back.
    """
    src, dst = stream.whole()
    edges = pa.table({"src": src, "dst": dst})
    edges = shuffle(edges, np.zeros(src.shape[0], np.int64), comm, stage="gather topology")
    parts_N = np.empty(0, np.int32)
    if comm.rank == 0:
        ends = column_numpy(edges, "src"), column_numpy(edges, "dst")
        parts_N = np.ascontiguousarray(place(_simple(stream.num_nodes, *ends)), np.int32)
    keys = np.arange(parts_N.shape[0], dtype=np.int64)
    owner = Blocks(stream.num_nodes, comm).owner(keys)
    mine = shuffle(pa.table({"part": parts_N}), owner, comm, stage="scatter parts")
    parts: NDArray[np.int32] = column_numpy(mine, "part")
    return parts


def _simple(num_nodes: int, src: NDArray[np.int64], dst: NDArray[np.int64]) -> Topology:
    apart = src != dst
    src, dst = src[apart], dst[apart]
    pairs = distinct(src * num_nodes + dst, dst * num_nodes + src)
    counts = np.bincount(pairs // num_nodes, minlength=num_nodes)
    return Topology(np.concatenate([[0], np.cumsum(counts)]), pairs % num_nodes)

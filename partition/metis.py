"""Edge-cut by METIS: multilevel, balanced, few edges cut; the topology on one rank."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.stream import EdgeStream
from graphtheta.partition.topology import Topology, place_on_rank_zero

__all__ = ["Metis"]


class Metis:
    """Cut few edges with parts of nearly equal size (3 %), by multilevel k-way partitioning.

    Runs on rank 0. On graphs of a few nodes it may leave parts empty.

    Communication:
        16 bytes an edge to rank 0, 4 bytes a node back.

    Source:
        Karypis, Kumar, "A fast and high quality multilevel scheme for partitioning irregular
        graphs", SIAM Journal on Scientific Computing 20(1), 1998.
    """

    name = "metis"
    cut: Literal["edge"] = "edge"

    def __call__(
        self, stream: EdgeStream, num_parts: int, *, seed: int, comm: Communicator
    ) -> NDArray[np.int32]:
        """Return the part of each node of this rank's block."""
        return place_on_rank_zero(stream, lambda graph: _place(graph, num_parts, seed), comm)


def _place(graph: Topology, num_parts: int, seed: int) -> NDArray[np.int32]:
    import pymetis

    adjacency = pymetis.CSRAdjacency(graph.indptr, graph.neighbours)
    options = pymetis.Options(seed=seed & 0x7FFFFFFF)
    result = pymetis.part_graph(num_parts, adjacency, options=options)
    return np.array(result.vertex_part, np.int32)

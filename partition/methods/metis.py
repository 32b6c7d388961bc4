"""Edge-cut by METIS: multilevel, balanced, few edges cut; the graph is held on rank 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.neighbour_lists import NeighbourLists
from graphtheta.partition.core.partitioner import PartitionJob
from graphtheta.partition.methods.multilevel import MultilevelPartitioner, Weights

__all__ = ["Metis"]


class Metis(MultilevelPartitioner):
    """Cut few edges with parts of nearly equal size (3 %), by multilevel k-way partitioning.

    It may leave parts empty on graphs of a few nodes. The work space is 274 bytes per pair of
    neighbours: 16 for indices of METIS's width, and 258 as measured on RMAT (142 on graphs with
    communities).

    Source:
        Karypis, Kumar, "A fast and high quality multilevel scheme for partitioning irregular
        graphs", SIAM Journal on Scientific Computing 20(1), 1998.
    """

    name = "metis"
    bytes_per_pair = 16 + 258

    def _solve(
        self, job: PartitionJob, lists: NeighbourLists, limit: float | None, weight_N: Weights
    ) -> NDArray[np.int32]:
        import pymetis

        adjacency = pymetis.CSRAdjacency(lists.indptr, lists.neighbours.astype(np.int64))
        options = pymetis.Options(seed=job.seed & 0x7FFFFFFF)
        if limit is not None:
            options.ufactor = max(round(1000 * (limit - 1)), 1)  # thousandths above the mean
        vweights = None if weight_N is None else weight_N.astype(np.int64)
        result = pymetis.part_graph(job.num_parts, adjacency, vweights=vweights, options=options)
        return np.array(result.vertex_part, np.int32)

"""Vertex-cut by the endpoint of lower degree: hubs are cut, the many small nodes are not."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.blocks import Blocks
from graphtheta.partition.partitioner import part_of_hash
from graphtheta.partition.stream import EdgeStream
from graphtheta.random import Purpose, hash_keys

__all__ = ["DegreeBasedHashing"]


class DegreeBasedHashing:
    """Put each edge where a hash of its endpoint of lower degree says; on a tie, of lower key.

    The degree of a node is its in-degree plus its out-degree.

    Communication:
        16 bytes for each different endpoint of this rank's edges to count degrees, and 24 to look
        them up. No rank holds the degree of every node, unless it is alone.

    Source:
        Xie, Yan, Li, Zhang, "Distributed power-law graph computing: theoretical and empirical
        analysis", NIPS 2014.
    """

    name = "dbh"
    cut: Literal["vertex"] = "vertex"

    def __call__(
        self, stream: EdgeStream, num_parts: int, *, seed: int, comm: Communicator
    ) -> NDArray[np.int32]:
        """Return the part of each edge of this rank."""
        nodes = Blocks(stream.num_nodes, comm)
        src, dst = stream.whole()
        ends = np.concatenate([src, dst])
        degree_B = nodes.count(ends, stage="dbh: count degrees")
        degree = nodes.fetch(ends, degree_B, stage="dbh: look up degrees")
        src_degree, dst_degree = degree[: src.shape[0]], degree[src.shape[0] :]
        by_src = (src_degree < dst_degree) | ((src_degree == dst_degree) & (src < dst))
        key = np.where(by_src, src, dst)
        return part_of_hash(hash_keys(key, seed, Purpose.PLACEMENT), num_parts)

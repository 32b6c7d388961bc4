"""The nodes around given nodes, found by all workers together."""

from __future__ import annotations

import numpy as np
import pytest

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.tgar import Boundary
from tests.graphs import CORNER_GRAPHS, to_graph


@pytest.mark.parametrize("corner", ["path", "star_out", "star_in", "power_law", "edgeless"])
@pytest.mark.parametrize(("workers", "method"), [(1, "node-hash"), (3, "node-hash"), (4, "dbh")])
def test_marked_nodes_are_a_search_from_the_nodes(corner: str, workers: int, method: str) -> None:
    num_nodes, src, dst = CORNER_GRAPHS[corner]
    graph, start = to_graph(CORNER_GRAPHS[corner]), np.arange(num_nodes) % 5 == 4
    reached = [start]
    for _ in range(3):
        wider = reached[-1].copy()
        wider[src[reached[-1][dst]]] = True
        reached.append(wider)

    def work(comm: Communicator) -> None:
        shard = gt.open_shard(graph, comm, method=method)
        boundary = Boundary(shard, comm)
        replicas = np.flatnonzero(start[shard.node_key_L])
        for hops in (0, 1, 3, 2):
            with boundary.around(replicas, hops) as marked:
                np.testing.assert_array_equal(marked == 1, reached[hops][shard.node_key_L])
        assert not marked.any()

    gt.run_local(work, workers=workers, timeout_s=60, check=True)

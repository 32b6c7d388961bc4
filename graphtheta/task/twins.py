"""Twins: edges between the same two nodes, in either direction and of any relation.

A random split of edges puts many an edge into the training split and its reverse into the test
split. Friendships that are listed in both directions can then be predicted without learning.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.tgar import ParallelEdges

__all__ = ["count_twins", "twin_warning"]


def count_twins(
    pairs: ParallelEdges, edges: NDArray[np.int64], others: NDArray[np.int64], comm: Communicator
) -> int:
    """Return how many edges of all workers have a twin among other edges; collective.

    Args:
        pairs: Index of all edges of the shard.
        edges: (T,) positions of edges of this worker.
        others: Positions of the other edges of this worker.
        comm: The workers.

    Communication:
        That of `ParallelEdges.of`: 8 bytes for each pair of nodes of `others` and each other worker
        with edges between them.
    """
    mine = int(np.isin(edges, pairs.of(others, comm)).sum())
    return int(comm.all_gather_int(mine, stage="count twins").sum())


def twin_warning(task: str, twins: int, edges: int, where: str) -> tuple[str, ...]:
    """Return a warning in one line, or none without twins.

    Args:
        task: Name of the task.
        twins: Number of validation and test edges with a twin.
        edges: Number of validation and test edges.
        where: Where the twins are, what follows, and the remedy.
    """
    if not twins:
        return ()
    share = f"{100 * twins / edges:.0f} %"
    found = f"{twins:,} of {edges:,} validation and test edges ({share})"
    return (f"{task}: {found} have a reverse or parallel edge {where}",)

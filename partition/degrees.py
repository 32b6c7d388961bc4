"""Degrees in the whole graph, and each edge's position among all in-edges of its destination.

Both come from counts by node, never from a list of a node's edges in one place: a hub's edges stay
where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.columns import column_numpy
from graphtheta.partition.read import GraphBlock
from graphtheta.partition.shuffle import shuffle

__all__ = ["Degrees", "count_degrees"]


@dataclass(frozen=True, slots=True)
class Degrees:
    """Counts over the whole graph.

    Attributes:
        in_degree, out_degree: Of the nodes of this rank's block.
        in_position: Of this rank's edges: how many in-edges of the destination have a lower
            edge_key.

    Shape:
        in_degree, out_degree: (B,) int64. in_position: (E,) int64.
    """

    in_degree: NDArray[np.int64]
    out_degree: NDArray[np.int64]
    in_position: NDArray[np.int64]


def count_degrees(graph: GraphBlock, comm: Communicator) -> Degrees:
    """Return degrees and in-positions; collective.

    Communication:
        40 bytes for each different destination of this rank's edges, 16 for each source.
    """
    in_degree, in_position = _in_positions(graph, comm)
    out_degree = graph.nodes.count(graph.src, stage="count out-degrees")
    return Degrees(in_degree, out_degree, in_position)


def _in_positions(
    graph: GraphBlock, comm: Communicator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # In edge_key order all input edges come before all reverse edges, and each of the two lies over
    # the ranks in order. So an edge's position is its place among this rank's edges of the same
    # destination and half, after the counts of that destination's earlier (half, rank) groups.
    half = np.arange(graph.dst.shape[0]) >= graph.num_forward
    group_of_edge = 2 * graph.dst + half
    order = np.argsort(group_of_edge, kind="stable")
    group, first, count = np.unique(group_of_edge[order], return_index=True, return_counts=True)
    place = np.arange(order.shape[0]) - np.repeat(first, count)

    rank = np.full(group.shape[0], comm.rank, np.int32)
    rows = pa.table({"group": group, "rank": rank, "count": count})
    rows = shuffle(rows, graph.nodes.owner(group // 2), comm, stage="count in-degrees")
    groups, counts = column_numpy(rows, "group"), column_numpy(rows, "count")
    before, in_degree = _before(groups, column_numpy(rows, "rank"), counts, graph)

    answers = pa.table({"before": before})
    answers = shuffle(answers, column_numpy(rows, "rank"), comm, stage="positions of in-edges")
    in_position = np.empty(order.shape[0], np.int64)
    in_position[order] = np.repeat(column_numpy(answers, "before"), count) + place
    return in_degree, in_position


def _before(
    group: NDArray[np.int64],
    rank: NDArray[np.int32],
    count: NDArray[np.int64],
    graph: GraphBlock,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many in-edges precede each group, and the in-degrees of this block."""
    order = np.lexsort((rank, group))
    node, ordered = group[order] // 2 - graph.nodes.start, count[order]
    in_degree = np.zeros(len(graph.nodes), np.int64)
    np.add.at(in_degree, node, ordered)
    base = np.cumsum(in_degree) - in_degree
    before = np.empty(order.shape[0], np.int64)
    before[order] = np.cumsum(ordered) - ordered - base[node]
    return before, in_degree

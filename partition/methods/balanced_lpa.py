"""Edge-cut by label propagation: nodes move to their neighbours' part while there is room."""

from __future__ import annotations

from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.capacity import (
    Capacities,
    add_node,
    demand,
    fits,
    node_capacities,
    part_loads,
)
from graphtheta.partition.core.neighbour_lists import NeighbourLists
from graphtheta.partition.core.node_blocks import LANES, NodeBlocks
from graphtheta.partition.core.node_greedy import greedy_bytes, own_neighbour_lists, stream_nodes
from graphtheta.partition.core.partitioner import Balance, BalanceOf
from graphtheta.partition.core.rebalance import keep_capacities
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream
from graphtheta.partition.methods.ldg_fennel import fennel_rule

__all__ = ["LabelPropagation"]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)

# Neighbours in a full part count a quarter: nodes leave it for others before it is stuck. At 1
# nodes would leave although it cuts more.
_PULL = 0.75
_LEAST_MOVED = 0.001  # of the nodes; after a round that moves fewer, the next would not pay


class LabelPropagation:
    """Move nodes to the part of most of their neighbours, in rounds, within hard capacities.

    Starts from one pass of Fennel. Measured on 2^18 nodes in 32 parts, after ten rounds: from a
    hash it cuts as few edges of communities (0.196), but more of RMAT (0.894, not 0.838); key
    ranges are the better start only where keys follow communities. Memory is that of `ldg`.

    Attributes:
        rounds: Most times that all nodes are visited.
        lanes: Which nodes are decided together.

    Communication:
        4 bytes a node and round from each rank to all, in blocks of nodes; 8 more if edges are
        limited.

    Source:
        Ugander, Backstrom, "Balanced label propagation for partitioning massive graphs", WSDM 2013.
        Meyerhenke, Sanders, Schulz, "Partitioning complex networks via size-constrained
        clustering", SEA 2014. Martella et al., "Spinner", ICDE 2017 (the pull of room).
    """

    name = "lpa"
    cut: Literal["edge"] = "edge"
    balances: frozenset[BalanceOf] = frozenset(("nodes", "edges", "train"))

    def __init__(self, *, rounds: int = 10, lanes: NodeBlocks = LANES) -> None:
        self.rounds = rounds
        self.lanes = lanes

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of the bytes that a rank holds at the peak."""
        return greedy_bytes(num_nodes, num_edges, 1)

    def __call__(
        self,
        stream: EdgeStream,
        num_parts: int,
        *,
        seed: int,
        balance: Balance,
        resources: Resources,
    ) -> NDArray[np.int32]:
        """Return the part of every node."""
        lists = own_neighbour_lists(stream, self.lanes, seed, self.name, resources)
        capacities = node_capacities(stream, num_parts, balance, resources)
        parts_N = np.full(stream.num_nodes, -1, np.int32)
        stream_nodes(
            lists,
            parts_N,
            num_parts,
            capacities,
            fennel_rule(stream, num_parts, capacities),
            passes=1,
            lanes=self.lanes,
            seed=seed,
            resources=resources,
        )
        self._propagate(lists, parts_N, num_parts, capacities, seed, resources)
        keep_capacities(parts_N, num_parts, capacities)
        return parts_N

    def _propagate(
        self,
        lists: NeighbourLists,
        parts_N: NDArray[np.int32],
        num_parts: int,
        capacities: Capacities,
        seed: int,
        resources: Resources,
    ) -> None:
        weight_NC, most_C, mean_C = capacities.weight_NC, capacities.most_C, capacities.mean_C
        load_PC = part_loads(parts_N, num_parts, capacities)
        num_nodes = parts_N.shape[0]
        moved = 0

        def decide(first: int, last: int, at_once: int, choice: NDArray[np.int32]) -> None:
            indptr, neighbours = lists.indptr, lists.neighbours
            _decide_moves(
                indptr,
                neighbours,
                parts_N,
                weight_NC,
                load_PC,
                most_C,
                mean_C,
                self.lanes.nodes,
                first,
                last,
                choice,
            )

        def place(first: int, choice: NDArray[np.int32]) -> None:
            nonlocal moved
            moved += _move(parts_N, weight_NC, load_PC, most_C, first, choice)

        phase = resources.progress.phase("propagate labels", self.rounds * num_nodes, "nodes")
        with phase as advance:
            for _ in range(self.rounds):
                moved = 0
                self.lanes.run(num_nodes, seed, decide, place, resources, advance)
                if moved <= _LEAST_MOVED * num_nodes:
                    break


@_jit
def _worth(
    load_PC: NDArray[np.int64],
    part: int,
    most_C: NDArray[np.int64],
    demand_C: NDArray[np.float64],
) -> float:  # pragma: no cover - compiled
    full = 0.0
    for c in range(most_C.shape[0]):
        full += demand_C[c] * load_PC[part, c] / max(most_C[c], 1)
    return 1.0 - _PULL * min(full, 1.0)


@_jit
def _decide_moves(
    indptr: NDArray[np.int64],
    neighbours: NDArray[Any],
    parts_N: NDArray[np.int32],
    weight_NC: NDArray[Any],
    load_PC: NDArray[np.int64],
    most_C: NDArray[np.int64],
    mean_C: NDArray[np.float64],
    lane: int,
    first: int,
    last: int,
    choice: NDArray[np.int32],
) -> None:  # pragma: no cover - compiled
    num_parts, num_limits = load_PC.shape
    demand_C = np.ones(num_limits)
    one = np.uint64(1)
    filled_PC = np.empty_like(load_PC)
    count_P, touched = np.zeros(num_parts, np.int32), np.empty(num_parts, np.int32)
    for start in range(first, last, lane):
        stop = min(start + lane, last)
        for p in range(num_parts):  # no copy of an array, which takes seconds to compile
            for c in range(num_limits):
                filled_PC[p, c] = load_PC[p, c]
        base = np.uint64(start)
        for v in range(base, np.uint64(stop)):
            num_touched = np.uint64(0)
            for k in range(np.uint64(indptr[v]), np.uint64(indptr[v + one])):
                u = np.uint64(neighbours[k])
                # Unsigned: a node before the lane wraps to far above.
                part = choice[u - np.uint64(first)] if u - base < v - base else parts_N[u]
                q = np.uint64(part)
                if count_P[q] == 0:
                    touched[num_touched] = part
                    num_touched += one
                count_P[q] += 1
            if num_limits > 1:
                demand(weight_NC, v, mean_C, demand_C)
            own = parts_N[v]
            best, best_score = own, count_P[own] * _worth(filled_PC, own, most_C, demand_C)
            for t in range(num_touched):
                p = touched[t]
                score = count_P[p] * _worth(filled_PC, p, most_C, demand_C)
                count_P[p] = 0
                # Of equals its own part, else the lowest.
                if p != own and (
                    score > best_score or (score == best_score and best != own and p < best)
                ):
                    if fits(filled_PC, p, weight_NC, v, most_C):
                        best, best_score = p, score
            choice[v - np.uint64(first)] = best
            if best != own:
                add_node(filled_PC, own, weight_NC, v, -1)
                add_node(filled_PC, best, weight_NC, v, 1)


@_jit
def _move(
    parts_N: NDArray[np.int32],
    weight_NC: NDArray[Any],
    load_PC: NDArray[np.int64],
    most_C: NDArray[np.int64],
    first: int,
    choice: NDArray[np.int32],
) -> int:  # pragma: no cover - compiled
    moved = 0
    for i in range(choice.shape[0]):
        v = first + i
        if choice[i] != parts_N[v] and fits(load_PC, choice[i], weight_NC, v, most_C):
            add_node(load_PC, parts_N[v], weight_NC, v, -1)
            add_node(load_PC, choice[i], weight_NC, v, 1)
            parts_N[v] = choice[i]
            moved += 1
    return moved

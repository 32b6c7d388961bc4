"""Greedy placement of a stream of nodes, each into the part where it scores most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.capacity import Capacities, add_node, demand, emptiest, fits
from graphtheta.partition.core.neighbour_lists import (
    NeighbourLists,
    build_neighbour_lists,
    neighbour_list_bytes,
)
from graphtheta.partition.core.node_blocks import NodeBlocks
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream

__all__ = ["GainRule", "greedy_bytes", "own_neighbour_lists", "stream_nodes"]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)

# What a lane places counts this much for its scores, as other lanes place alike at the same time.
# Times the lanes was too much: it tears communities of consecutive nodes apart.
_SPREAD = 2.0


@dataclass(frozen=True, slots=True)
class GainRule:
    """What a part scores that holds `count` neighbours of a node and is filled to x, 1 at most.

    count * (1 - keep * x) - cost * sqrt(x).
    """

    keep: float = 0.0
    cost: float = 0.0


def greedy_bytes(num_nodes: int, num_edges: int, num_ranks: int) -> int:
    """Return an estimate of the bytes of a rank: its topology, and parts, weights and degrees."""
    return neighbour_list_bytes(num_nodes, num_edges // num_ranks) + 24 * num_nodes


def own_neighbour_lists(
    stream: EdgeStream, lanes: NodeBlocks, seed: int, name: str, resources: Resources
) -> NeighbourLists:
    """Return the neighbours of the nodes that this rank decides.

    Raises:
        PartitionError: If they would not fit the memory limit.
    """
    resources.check_memory(
        greedy_bytes(stream.num_nodes, stream.num_edges, resources.comm.size),
        f"the topology that {name} looks at",
        "Take node-hash or dbh, which keep no edges in memory, or use more ranks.",
    )
    rows_N = lanes.rows(stream.num_nodes, seed, resources.comm)
    return build_neighbour_lists(stream, resources, rows_N=rows_N)


def stream_nodes(
    lists: NeighbourLists,
    parts_N: NDArray[np.int32],
    num_parts: int,
    capacities: Capacities,
    rule: GainRule,
    *,
    passes: int,
    lanes: NodeBlocks,
    seed: int,
    resources: Resources,
) -> None:
    """Place all nodes, in place, some times over: later passes know where all neighbours were.

    Parts are filled from nothing in each pass. A node that fits nowhere, which several limits or
    heavy nodes bring about, overfills the emptiest part.

    Args:
        lists: Neighbours of the nodes that this rank decides.
        parts_N: A part for each node, or -1.
        num_parts: Parts (P).
        capacities: What parts may hold.
        rule: What a part scores.
        passes: Times that all nodes are placed.
        lanes: Which nodes are decided together.
        seed: Draws where to begin.
        resources: Ranks and threads.

    Source:
        Nishimura, Ugander, "Restreaming graph partitioning: simple versatile algorithms for
        advanced balancing", KDD 2013.
    """
    weight_NC, most_C, mean_C = capacities.weight_NC, capacities.most_C, capacities.mean_C
    load_PC = np.zeros((num_parts, most_C.shape[0]), np.int64)
    num_nodes = parts_N.shape[0]

    def decide(first: int, last: int, at_once: int, choice: NDArray[np.int32]) -> None:
        _decide(
            lists.indptr,
            lists.neighbours,
            parts_N,
            weight_NC,
            load_PC,
            most_C,
            mean_C,
            rule.keep,
            rule.cost,
            min(_SPREAD, at_once),
            lanes.nodes,
            first,
            last,
            choice,
        )

    def place(first: int, choice: NDArray[np.int32]) -> None:
        _place(parts_N, weight_NC, load_PC, most_C, mean_C, first, choice)

    with resources.progress.phase("place nodes", passes * num_nodes, "nodes") as advance:
        for _ in range(passes):
            load_PC[:] = 0
            lanes.run(num_nodes, seed, decide, place, resources, advance)


@_jit
def _score(
    count: int,
    full_PC: NDArray[np.float64],
    part: int,
    demand_C: NDArray[np.float64],
    keep: float,
    cost: float,
) -> float:  # pragma: no cover - compiled
    full = 0.0
    for c in range(demand_C.shape[0]):
        full += demand_C[c] * full_PC[part, c]
    # Above 0 although a lane counts more than it placed: neighbours are better than none.
    score = count * max(1.0 - keep * full, 1e-6)
    return score - cost * np.sqrt(full) if cost != 0.0 else score


@_jit
def _decide(
    indptr: NDArray[np.int64],
    neighbours: NDArray[Any],
    parts_N: NDArray[np.int32],
    weight_NC: NDArray[Any],
    load_PC: NDArray[np.int64],
    most_C: NDArray[np.int64],
    mean_C: NDArray[np.float64],
    keep: float,
    cost: float,
    spread: float,
    lane: int,
    first: int,
    last: int,
    choice: NDArray[np.int32],
) -> None:  # pragma: no cover - compiled
    num_parts, num_limits = load_PC.shape
    one = np.uint64(1)
    filled_PC, full_PC = np.empty_like(load_PC), np.empty(load_PC.shape)
    count_P, touched = np.zeros(num_parts, np.int32), np.empty(num_parts, np.int32)
    demand_C = np.ones(num_limits)
    for start in range(first, last, lane):
        stop = min(start + lane, last)
        for p in range(num_parts):  # no copy of an array, which takes seconds to compile
            for c in range(num_limits):
                filled_PC[p, c] = load_PC[p, c]
                full_PC[p, c] = load_PC[p, c] / max(most_C[c], 1)
        least = int(np.argmin(full_PC[:, 0]))
        base = np.uint64(start)
        for v in range(base, np.uint64(stop)):
            num_touched = np.uint64(0)
            for k in range(np.uint64(indptr[v]), np.uint64(indptr[v + one])):
                u = np.uint64(neighbours[k])
                # Unsigned: a node before the lane wraps to far above.
                part = choice[u - np.uint64(first)] if u - base < v - base else parts_N[u]
                if part >= 0:
                    q = np.uint64(part)
                    if count_P[q] == 0:
                        touched[num_touched] = part
                        num_touched += one
                    count_P[q] += 1
            if num_limits > 1:
                demand(weight_NC, v, mean_C, demand_C)
                least = emptiest(filled_PC, weight_NC, v, most_C, demand_C, False)
            best, best_score = -1, -np.inf
            for t in range(num_touched):
                p = touched[t]
                score = _score(count_P[p], full_PC, p, demand_C, keep, cost)
                count_P[p] = 0
                if score > best_score or (score == best_score and p < best):
                    if fits(filled_PC, p, weight_NC, v, most_C):
                        best, best_score = int(p), score
            # Of the parts without a neighbour the emptiest scores most.
            score = _score(0, full_PC, least, demand_C, keep, cost)
            if score > best_score or (score == best_score and least < best):
                if fits(filled_PC, least, weight_NC, v, most_C):
                    best, best_score = least, score
                elif best < 0:
                    best = emptiest(filled_PC, weight_NC, v, most_C, demand_C, True)
            choice[v - np.uint64(first)] = best
            if best >= 0:
                add_node(filled_PC, best, weight_NC, v, 1)
                for c in range(num_limits):
                    added = filled_PC[best, c] - load_PC[best, c]
                    full_PC[best, c] = (load_PC[best, c] + spread * added) / max(most_C[c], 1)
                if best == least and num_limits == 1:
                    least = int(np.argmin(full_PC[:, 0]))


@_jit
def _place(
    parts_N: NDArray[np.int32],
    weight_NC: NDArray[Any],
    load_PC: NDArray[np.int64],
    most_C: NDArray[np.int64],
    mean_C: NDArray[np.float64],
    first: int,
    choice: NDArray[np.int32],
) -> None:  # pragma: no cover - compiled
    demand_C = np.empty_like(mean_C)
    for i in range(choice.shape[0]):
        v, part = first + i, choice[i]
        if part < 0 or not fits(load_PC, part, weight_NC, v, most_C):
            demand(weight_NC, v, mean_C, demand_C)
            part = emptiest(load_PC, weight_NC, v, most_C, demand_C, True)
            if part < 0:
                part = emptiest(load_PC, weight_NC, v, most_C, demand_C, False)
        add_node(load_PC, part, weight_NC, v, 1)
        parts_N[v] = part

"""Greedy assignment of a stream of nodes, each to the part with the highest score."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.capacity import (
    NodeWeights,
    add_node,
    fits,
    least_full,
    limit_shares,
)
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.neighbour_lists import (
    NeighbourLists,
    build_neighbour_lists,
    neighbour_list_bytes,
)
from graphtheta.partition.core.node_blocks import NodeBlocks
from graphtheta.partition.core.partitioner import PartitionJob

__all__ = [
    "GainRule",
    "copy_loads",
    "count_parts",
    "greedy_bytes",
    "own_neighbour_lists",
    "stream_nodes",
]


# The load that a block adds counts this much in its scores, because other blocks assign nodes at
# the same time. The number of blocks was too much: it tears communities of consecutive nodes apart.
_LOAD_FACTOR = 2.0


class GainRule(NamedTuple):
    """Score of a part: count * (1 - discount * x) - penalty * sqrt(x).

    `count` is the number of the node's neighbours in the part, and x says how full the part is, 1
    at its capacity.
    """

    discount: float = 0.0
    penalty: float = 0.0


def greedy_bytes(num_nodes: int, num_edges: int, num_ranks: int) -> int:
    """Return an estimate of a rank's bytes: neighbour lists, parts, weights and degrees."""
    return neighbour_list_bytes(num_nodes, num_edges // num_ranks) + 24 * num_nodes


def own_neighbour_lists(job: PartitionJob, blocks: NodeBlocks, name: str) -> NeighbourLists:
    """Return the neighbours of the nodes that this rank decides.

    Raises:
        PartitionError: If they do not fit the memory limit.
    """
    stream, resources = job.stream, job.resources
    num_bytes = greedy_bytes(stream.num_nodes, stream.num_edges, resources.comm.size)
    # Each type is a limit, with its own weights of all nodes.
    num_bytes += 5 * len(job.balance.type_counts or ()) * stream.num_nodes
    resources.check_memory(
        num_bytes,
        f"the neighbour lists for {name}",
        "Use node-hash or dbh, which keep no edges in memory, or use more ranks.",
    )
    nodes_N = blocks.nodes_of_rank(stream.num_nodes, job.seed, resources.comm)
    return build_neighbour_lists(stream, resources, nodes_N=nodes_N)


def stream_nodes(
    job: PartitionJob,
    lists: NeighbourLists,
    parts_N: NDArray[np.int32],
    weights: NodeWeights,
    rule: GainRule,
    *,
    passes: int,
    blocks: NodeBlocks,
) -> None:
    """Assign all nodes in one or more passes, in place; later passes know the parts of all nodes.

    Each pass starts with empty parts. A node that fits no part, as may happen with several limits
    or heavy nodes, goes to the least full part and overfills it.

    Args:
        job: Number of parts, ranks and threads; its random seed draws the first node.
        lists: Neighbours of the nodes that this rank decides.
        parts_N: Part of each node, or -1.
        weights: Weights of the nodes and capacity of a part.
        rule: Score of a part.
        passes: Number of times that all nodes are assigned.
        blocks: Sizes of the blocks that are decided in parallel.

    Source:
        Nishimura, Ugander, "Restreaming graph partitioning: simple versatile algorithms for
        advanced balancing", KDD 2013.
    """
    num_nodes = parts_N.shape[0]
    load_PC = np.zeros((job.num_parts, weights.capacity_C.shape[0]), np.int64)

    def decide(first: int, last: int, num_blocks: int, decisions: NDArray[np.int32]) -> None:
        load_factor = min(_LOAD_FACTOR, float(num_blocks))
        state = (lists, parts_N, weights, load_PC)
        _decide(*state, rule, load_factor, blocks.block_size, first, last, decisions)

    def apply(first: int, decisions: NDArray[np.int32]) -> None:
        _apply(parts_N, weights, load_PC, first, decisions)

    with job.resources.progress.phase("place nodes", passes * num_nodes, "nodes") as advance:
        for _ in range(passes):
            load_PC[:] = 0
            blocks.run(num_nodes, job.seed, decide, apply, job.resources, advance)


# -- compiled: shared by methods that look at neighbours' parts ----------------------------------


@jit
def copy_loads(load_PC: NDArray[np.int64], copy_PC: NDArray[np.int64]) -> None:
    """Copy loads in a loop: assignment of an array takes seconds to compile."""
    for p in range(load_PC.shape[0]):
        for c in range(load_PC.shape[1]):
            copy_PC[p, c] = load_PC[p, c]


@jit
def count_parts(
    lists: NeighbourLists,
    parts_N: NDArray[np.int32],
    decisions: NDArray[np.int32],
    first: np.uint64,
    block: np.uint64,
    node: int,
    count_P: NDArray[np.int32],
    found: NDArray[np.int32],
) -> np.uint64:
    """Count a node's neighbours in each part; return the number of parts that have any.

    Args:
        lists: Neighbour lists.
        parts_N: Part of each node before the batch, or -1.
        decisions: Parts of nodes from `first` on.
        first: First node of `decisions`.
        block: First node of the block; the block's nodes before `node` are decided.
        node: The node.
        count_P: Counts, 0 on entry.
        found: The parts that have neighbours, in the order of the first one; written.
    """
    one, num_found = np.uint64(1), np.uint64(0)
    for k in range(np.uint64(lists.indptr[node]), np.uint64(lists.indptr[node + one])):
        u = np.uint64(lists.neighbours[k])
        # Unsigned: a node before the block wraps around to a large number.
        part = decisions[u - first] if u - block < node - block else parts_N[u]
        if part >= 0:
            p = np.uint64(part)
            if count_P[p] == 0:
                found[num_found] = part
                num_found += one
            count_P[p] += 1
    return num_found


# -- compiled: greedy assignment -----------------------------------------------------------------


@jit
def _score(
    count: int,
    ratio_PC: NDArray[np.float64],
    part: int,
    share_C: NDArray[np.float64],
    rule: GainRule,
) -> float:
    ratio = 0.0
    for c in range(share_C.shape[0]):
        ratio += share_C[c] * ratio_PC[part, c]
    # Positive even if the ratio is above 1, because neighbours are better than none.
    score = count * max(1.0 - rule.discount * ratio, 1e-6)
    return score - rule.penalty * np.sqrt(ratio) if rule.penalty != 0.0 else score


@jit
def _decide(
    lists: NeighbourLists,
    parts_N: NDArray[np.int32],
    weights: NodeWeights,
    load_PC: NDArray[np.int64],
    rule: GainRule,
    load_factor: float,
    block_size: int,
    first: int,
    last: int,
    decisions: NDArray[np.int32],
) -> None:
    num_parts, num_limits = load_PC.shape
    capacity_C = weights.capacity_C
    seen_PC, ratio_PC = np.empty_like(load_PC), np.empty(load_PC.shape)  # as the block sees them
    count_P, found = np.zeros(num_parts, np.int32), np.empty(num_parts, np.int32)
    share_C = np.ones(num_limits)
    base = np.uint64(first)
    for start in range(first, last, block_size):
        copy_loads(load_PC, seen_PC)
        for p in range(num_parts):
            for c in range(num_limits):
                ratio_PC[p, c] = load_PC[p, c] / max(capacity_C[c], 1)
        least = int(np.argmin(ratio_PC[:, 0]))
        block = np.uint64(start)
        for v in range(block, np.uint64(min(start + block_size, last))):
            num_found = count_parts(lists, parts_N, decisions, base, block, v, count_P, found)
            if num_limits > 1:
                limit_shares(weights, v, share_C)
                least = least_full(seen_PC, weights, v, share_C, False)
            best, best_score = -1, -np.inf
            for t in range(num_found):
                p = found[t]
                score = _score(count_P[p], ratio_PC, p, share_C, rule)
                count_P[p] = 0
                if score > best_score or (score == best_score and p < best):
                    if fits(seen_PC, p, weights, v):
                        best, best_score = int(p), score
            # Of the parts without a neighbour, the least full one scores highest.
            score = _score(0, ratio_PC, least, share_C, rule)
            if score > best_score or (score == best_score and least < best):
                if fits(seen_PC, least, weights, v):
                    best, best_score = least, score
                elif best < 0:
                    best = least_full(seen_PC, weights, v, share_C, True)
            decisions[v - base] = best
            if best >= 0:
                add_node(seen_PC, best, weights, v, 1)
                for c in range(num_limits):
                    load = load_PC[best, c] + load_factor * (seen_PC[best, c] - load_PC[best, c])
                    ratio_PC[best, c] = load / max(capacity_C[c], 1)
                if best == least and num_limits == 1:
                    least = int(np.argmin(ratio_PC[:, 0]))


@jit
def _apply(
    parts_N: NDArray[np.int32],
    weights: NodeWeights,
    load_PC: NDArray[np.int64],
    first: int,
    decisions: NDArray[np.int32],
) -> None:
    share_C = np.empty_like(weights.mean_C)
    for i in range(decisions.shape[0]):
        v, part = first + i, decisions[i]
        if part < 0 or not fits(load_PC, part, weights, v):
            limit_shares(weights, v, share_C)
            part = least_full(load_PC, weights, v, share_C, True)
            if part < 0:
                part = least_full(load_PC, weights, v, share_C, False)
        add_node(load_PC, part, weights, v, 1)
        parts_N[v] = part

"""Minimum weighted vertex cover of a bipartite graph, by maximum flow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.ooc.spill import bucket_order

__all__ = ["vertex_cover"]


def vertex_cover(
    left_E: NDArray[np.int32],
    right_E: NDArray[np.int32],
    num_left: int,
    num_right: int,
    *,
    left_weight: int = 1,
    right_weight: int = 1,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the minimum vertex cover with the most left nodes of a bipartite graph.

    All left nodes have one weight, and all right nodes another. Of the covers of least weight,
    the one that contains all left nodes that any of them contains is returned. It is unique, so
    that the result does not depend on the order of the edges.

    By the theorem of König and Egerváry, the least weight is the maximum flow from left to right
    nodes in which a node passes at most its weight: a maximum matching if both weights are 1. The
    flow is found by Dinic's algorithm, which is that of Hopcroft and Karp if both weights are 1.
    The cover has the left nodes that cannot send more flow, directly or by redirecting that of
    others, and the right nodes that they could redirect flow at.

    Memory: 16 bytes per edge, and 40 per node. Most of it runs without the global interpreter lock.

    Args:
        left_E: Left end of each edge. Duplicate edges are allowed.
        right_E: Right end of each edge.
        num_left: Number of left nodes (A).
        num_right: Number of right nodes (B).
        left_weight: Weight of a left node, a positive integer.
        right_weight: Weight of a right node, a positive integer.

    Returns:
        Masks of the left and the right nodes of the cover.

    Shape:
        left_E, right_E: (E,), E < 2^31. Returns (A,) and (B,).

    Source:
        Hopcroft, Karp, "An n^5/2 algorithm for maximum matchings in bipartite graphs", SIAM J.
        Computing 2(4), 1973; Dinic, "Algorithm for solution of a problem of maximum flow in
        networks with power estimation", Soviet Math. Doklady 11, 1970.
    """
    edges_of_left, left_indptr = bucket_order(left_E, num_left)
    edges_of_right, right_indptr = bucket_order(right_E, num_right)
    level_A, level_B = np.empty(num_left, np.int32), np.empty(num_right, np.int32)
    _flow(
        left_E,
        right_E,
        left_indptr,
        edges_of_left,
        right_indptr,
        edges_of_right,
        np.zeros(len(left_E), np.int32),
        np.full(num_left, left_weight, np.int32),
        np.full(num_right, right_weight, np.int32),
        level_A,
        level_B,
    )
    cover_A = level_A < 0
    cover_A[np.diff(left_indptr) == 0] = False
    return cover_A, level_B >= 0


@jit
def _flow(
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    left_indptr: NDArray[np.int64],
    edges_of_left: NDArray[np.int32],
    right_indptr: NDArray[np.int64],
    edges_of_right: NDArray[np.int32],
    flow: NDArray[np.int32],
    excess: NDArray[np.int32],
    room: NDArray[np.int32],
    level_left: NDArray[np.int32],
    level_right: NDArray[np.int32],
) -> None:
    """Find a maximum flow, and the level of each node that can get more of it, or -1.

    Args:
        left: Left end of each edge.
        right: Right end of each edge.
        left_indptr: Where the edges of each left node start.
        edges_of_left: Edges by left node.
        right_indptr: Where the edges of each right node start.
        edges_of_right: Edges by right node.
        flow: Flow of each edge, 0 at first.
        excess: What each left node can still send, its weight at first.
        room: What each right node can still receive, its weight at first.
        level_left: To be written: distance of each left node from those with excess.
        level_right: To be written: the same of each right node.
    """
    num_left = excess.shape[0]
    for u in range(num_left):  # most of the flow needs no redirection
        for at in range(left_indptr[u], left_indptr[u + 1]):
            e = edges_of_left[at]
            amount = min(excess[u], room[right[e]])
            flow[e] += amount
            excess[u] -= amount
            room[right[e]] -= amount
            if excess[u] == 0:
                break
    queue = np.empty(num_left, np.int32)
    next_left = np.empty(num_left, np.int64)
    next_right = np.empty(room.shape[0], np.int64)
    path = np.empty(2 * num_left + 2, np.int64)  # edges there and back, alternating
    while True:
        # Levels: distances from the left nodes with excess, up to the first right node with room.
        level_left[:] = -1
        level_right[:] = -1
        head, tail, last = 0, 0, -1
        for u in range(num_left):
            if excess[u] > 0 and left_indptr[u] < left_indptr[u + 1]:
                level_left[u] = 0
                queue[tail] = u
                tail += 1
        while head < tail:
            u = int(queue[head])
            head += 1
            if 0 <= last <= level_left[u]:
                break
            for at in range(left_indptr[u], left_indptr[u + 1]):
                v = right[edges_of_left[at]]
                if level_right[v] >= 0:
                    continue
                level_right[v] = level_left[u] + 1
                if room[v] > 0:
                    last = level_right[v]
                    continue
                for back in range(right_indptr[v], right_indptr[v + 1]):
                    e = edges_of_right[back]
                    if flow[e] > 0 and level_left[left[e]] < 0:
                        level_left[left[e]] = level_right[v] + 1
                        queue[tail] = left[e]
                        tail += 1
        if last < 0:
            return
        # Send flow along shortest paths until no more fits.
        next_left[:] = left_indptr[:-1]
        next_right[:] = right_indptr[:-1]
        for root in range(num_left):
            if excess[root] == 0 or level_left[root] != 0:
                continue
            u, depth = root, 0
            while True:
                is_deeper = False
                while next_left[u] < left_indptr[u + 1]:
                    e = edges_of_left[next_left[u]]
                    v = right[e]
                    if level_right[v] == level_left[u] + 1:
                        if room[v] > 0:
                            amount = min(excess[root], room[v])
                            for i in range(1, depth, 2):
                                amount = min(amount, flow[path[i]])
                            for i in range(0, depth, 2):
                                flow[path[i]] += amount
                                flow[path[i + 1]] -= amount
                            flow[e] += amount
                            room[v] -= amount
                            excess[root] -= amount
                            u, depth = root, 0
                            if excess[root] == 0:
                                break
                            continue
                        while next_right[v] < right_indptr[v + 1]:
                            back = edges_of_right[next_right[v]]
                            if flow[back] > 0 and level_left[left[back]] == level_right[v] + 1:
                                break
                            next_right[v] += 1
                        if next_right[v] < right_indptr[v + 1]:
                            path[depth], path[depth + 1] = e, edges_of_right[next_right[v]]
                            depth += 2
                            is_deeper = True
                            break
                    next_left[u] += 1
                if is_deeper:
                    u = int(left[path[depth - 1]])
                elif depth == 0:
                    break
                else:  # no way on from u: try the next edge of the right node before it
                    depth -= 2
                    next_right[right[path[depth]]] += 1
                    u = int(left[path[depth]])

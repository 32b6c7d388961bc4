"""Rebalancing: move nodes between parts until no part exceeds its capacities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.core.capacity import Capacities, NodeWeights, add_node, part_loads
from graphtheta.partition.core.intrinsics import jit

__all__ = ["rebalance"]


_MAX_ROUNDS = 20
_MAX_SWAPS = 4096  # nodes with which one node is tried to be swapped
_MAX_FAILURES = 1024  # nodes in a row that could not be moved, after which a round ends


def rebalance(parts_N: NDArray[np.int32], num_parts: int, capacities: Capacities) -> None:
    """Move nodes out of parts that exceed their capacities, in place; nodes of high key first.

    A node moves to the part where that reduces the total excess most. If no move does, as when one
    part is full of edges and another of nodes, it is swapped with another node.

    Raises:
        PartitionError: If some part still exceeds a required capacity at the end.
    """
    weight_NC, capacity_C, mean_C = capacities.weights
    load_PC = part_loads(parts_N, num_parts, capacities.weights)
    capacity_C = capacity_C.copy()
    capacity_C[capacities.num_required :] = parts_N.shape[0]
    weights = NodeWeights(weight_NC, capacity_C, mean_C)
    for _ in range(_MAX_ROUNDS):
        if not (load_PC > capacity_C).any():
            return
        if not _reduce_excess(parts_N, weights, load_PC):
            break
    over = (load_PC > capacity_C).any(axis=0)
    if over.any():
        c = int(over.argmax())
        what, limit = list(capacities.limits.items())[c]
        got = load_PC[:, c].max() / (load_PC[:, c].sum() / num_parts)
        raise PartitionError(
            f"partition: expected parts within the limit {what}={limit:g}, got {got:.4g}. Raise "
            "the limit, use fewer parts, or use a vertex-cut such as dbh."
        )


@jit
def _weighs_on_excess(
    load_PC: NDArray[np.int64], part: int, weights: NodeWeights, node: int
) -> bool:
    """Return whether the node has weight under a limit that its part exceeds."""
    for c in range(load_PC.shape[1]):
        if load_PC[part, c] > weights.capacity_C[c] and weights.weight_NC[node, c] > 0:
            return True
    return False


@jit
def _excess_reduction(
    load_PC: NDArray[np.int64], part: int, weights: NodeWeights, leaving: int, joining: int
) -> float:
    """Return how much the excess of a part shrinks if one node leaves and another joins it.

    A node of -1 means no node. The unit is the weight of a mean node.
    """
    reduction = 0.0
    for c in range(load_PC.shape[1]):
        before = load_PC[part, c] - weights.capacity_C[c]
        after = before
        if leaving >= 0:
            after -= weights.weight_NC[leaving, c]
        if joining >= 0:
            after += weights.weight_NC[joining, c]
        reduction += (max(before, 0) - max(after, 0)) / weights.mean_C[c]
    return reduction


@jit
def _reduce_excess(
    parts_N: NDArray[np.int32], weights: NodeWeights, load_PC: NDArray[np.int64]
) -> bool:
    changed = False
    num_nodes = parts_N.shape[0]
    other = 0  # next node to try a swap with; wraps around
    failures = 0
    for v in range(num_nodes - 1, -1, -1):
        p = parts_N[v]
        if failures == _MAX_FAILURES:
            break
        if not _weighs_on_excess(load_PC, p, weights, v):
            continue
        gain = _excess_reduction(load_PC, p, weights, v, -1)
        best, best_gain = -1, 0.0
        for q in range(load_PC.shape[0]):
            total = gain + _excess_reduction(load_PC, q, weights, -1, v)
            if q != p and total > best_gain:
                best, best_gain = q, total
        for _ in range(0 if best >= 0 else min(num_nodes, _MAX_SWAPS)):
            q = parts_N[other]
            if q != p:
                gain = _excess_reduction(load_PC, p, weights, v, other)
                gain += _excess_reduction(load_PC, q, weights, other, v)
                if gain > 0.0:
                    add_node(load_PC, q, weights, other, -1)
                    add_node(load_PC, p, weights, other, 1)
                    parts_N[other], best = p, q
                    break
            other = other + 1 if other + 1 < num_nodes else 0
        failures += 1
        if best >= 0:
            failures = 0
            add_node(load_PC, p, weights, v, -1)
            add_node(load_PC, best, weights, v, 1)
            parts_N[v] = best
            changed = True
    return changed

"""Rebalancing: move nodes between parts until no part exceeds its capacities."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.core.capacity import Capacities, add_node, part_loads

__all__ = ["rebalance"]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)

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
    load_PC = part_loads(parts_N, num_parts, capacities)
    capacity_C = capacities.capacity_C.copy()
    capacity_C[capacities.num_required :] = parts_N.shape[0]
    for _ in range(_MAX_ROUNDS):
        if not (load_PC > capacity_C).any():
            return
        if not _reduce_excess(
            parts_N, capacities.weight_NC, load_PC, capacity_C, capacities.mean_C
        ):
            break
    over = (load_PC > capacity_C).any(axis=0)
    if over.any():
        c = int(over.argmax())
        mean = capacities.total_C[c] / num_parts
        raise PartitionError(
            f"partition: expected parts within the limit {capacities.what[c]}="
            f"{capacities.limits[c]:g}, got {load_PC[:, c].max() / mean:.4g}. Raise the "
            "limit, use fewer parts, or use a vertex-cut such as dbh."
        )


@_jit
def _weighs_on_excess(
    load_PC: NDArray[np.int64],
    part: int,
    weight_NC: NDArray[Any],
    node: int,
    capacity_C: NDArray[np.int64],
) -> bool:  # pragma: no cover - compiled
    """Return whether the node has weight under a limit that its part exceeds."""
    for c in range(capacity_C.shape[0]):
        if load_PC[part, c] > capacity_C[c] and weight_NC[node, c] > 0:
            return True
    return False


@_jit
def _excess_reduction(
    load_PC: NDArray[np.int64],
    part: int,
    weight_NC: NDArray[Any],
    leaving: int,
    joining: int,
    capacity_C: NDArray[np.int64],
    mean_C: NDArray[np.float64],
) -> float:  # pragma: no cover - compiled
    """Return how much the excess of a part shrinks if one node leaves and another joins it.

    A node of -1 means no node. The unit is the weight of a mean node.
    """
    reduction = 0.0
    for c in range(capacity_C.shape[0]):
        before = load_PC[part, c] - capacity_C[c]
        after = before
        if leaving >= 0:
            after -= weight_NC[leaving, c]
        if joining >= 0:
            after += weight_NC[joining, c]
        reduction += (max(before, 0) - max(after, 0)) / mean_C[c]
    return reduction


@_jit
def _reduce_excess(
    parts_N: NDArray[np.int32],
    weight_NC: NDArray[Any],
    load_PC: NDArray[np.int64],
    capacity_C: NDArray[np.int64],
    mean_C: NDArray[np.float64],
) -> bool:  # pragma: no cover - compiled
    changed = False
    num_nodes = parts_N.shape[0]
    other = 0  # next node to try a swap with; wraps around
    failures = 0
    for v in range(num_nodes - 1, -1, -1):
        p = parts_N[v]
        if failures == _MAX_FAILURES:
            break
        if not _weighs_on_excess(load_PC, p, weight_NC, v, capacity_C):
            continue
        gain = _excess_reduction(load_PC, p, weight_NC, v, -1, capacity_C, mean_C)
        best, best_gain = -1, 0.0
        for q in range(load_PC.shape[0]):
            total = gain + _excess_reduction(load_PC, q, weight_NC, -1, v, capacity_C, mean_C)
            if q != p and total > best_gain:
                best, best_gain = q, total
        for _ in range(0 if best >= 0 else min(num_nodes, _MAX_SWAPS)):
            q = parts_N[other]
            if q != p:
                gain = _excess_reduction(load_PC, p, weight_NC, v, other, capacity_C, mean_C)
                gain += _excess_reduction(load_PC, q, weight_NC, other, v, capacity_C, mean_C)
                if gain > 0.0:
                    add_node(load_PC, q, weight_NC, other, -1)
                    add_node(load_PC, p, weight_NC, other, 1)
                    parts_N[other], best = p, q
                    break
            other = other + 1 if other + 1 < num_nodes else 0
        failures += 1
        if best >= 0:
            failures = 0
            add_node(load_PC, p, weight_NC, v, -1)
            add_node(load_PC, best, weight_NC, v, 1)
            parts_N[v] = best
            changed = True
    return changed

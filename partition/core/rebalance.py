"""Parts made to keep their capacities, where placing one node after the other did not."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.core.capacity import Capacities, add_node, part_loads

__all__ = ["keep_capacities"]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)

_MOST_ROUNDS = 20
_MOST_TRIES = 4096  # other nodes that one is tried to be swapped with
_MOST_STUCK = 1024  # nodes in a row that found no place, after which a round is given up


def keep_capacities(parts_N: NDArray[np.int32], num_parts: int, capacities: Capacities) -> None:
    """Move nodes out of parts that hold too much, in place: the last nodes of a part first.

    A node is moved, or where one part is full of edges and another of nodes two are swapped, if
    that lessens what parts hold too much.

    Raises:
        PartitionError: If that does not end with parts that hold no more than they may.
    """
    load_PC = part_loads(parts_N, num_parts, capacities)
    most_C = capacities.most_C.copy()
    most_C[capacities.num_asked :] = parts_N.shape[0]
    for _ in range(_MOST_ROUNDS):
        if not (load_PC > most_C).any():
            return
        if not _lessen_excess(parts_N, capacities.weight_NC, load_PC, most_C, capacities.mean_C):
            break
    over = (load_PC > most_C).any(axis=0)
    if over.any():
        c = int(over.argmax())
        mean = capacities.total_C[c] / num_parts
        raise PartitionError(
            f"partition: expected parts within the limit {capacities.what[c]}="
            f"{capacities.limits[c]:g}, got {load_PC[:, c].max() / mean:.4g}. Raise the "
            "limit, ask for fewer parts, or take a vertex-cut such as dbh."
        )


@_jit
def _is_over(
    load_PC: NDArray[np.int64],
    part: int,
    weight_NC: NDArray[Any],
    node: int,
    most_C: NDArray[np.int64],
) -> bool:  # pragma: no cover - compiled
    for c in range(most_C.shape[0]):
        # A node that weighs nothing where it is too much would not help.
        if load_PC[part, c] > most_C[c] and weight_NC[node, c] > 0:
            return True
    return False


@_jit
def _less_excess(
    load_PC: NDArray[np.int64],
    part: int,
    weight_NC: NDArray[Any],
    gone: int,
    come: int,
    most_C: NDArray[np.int64],
    mean_C: NDArray[np.float64],
) -> float:  # pragma: no cover - compiled
    """Return by how many mean nodes a part holds less too much, if one node goes, another comes.

    A node of -1 is none.
    """
    less = 0.0
    for c in range(most_C.shape[0]):
        before = load_PC[part, c] - most_C[c]
        after = before
        if gone >= 0:
            after -= weight_NC[gone, c]
        if come >= 0:
            after += weight_NC[come, c]
        less += (max(before, 0) - max(after, 0)) / mean_C[c]
    return less


@_jit
def _lessen_excess(
    parts_N: NDArray[np.int32],
    weight_NC: NDArray[Any],
    load_PC: NDArray[np.int64],
    most_C: NDArray[np.int64],
    mean_C: NDArray[np.float64],
) -> bool:  # pragma: no cover - compiled
    changed = False
    num_nodes = parts_N.shape[0]
    other = 0  # goes round and round
    stuck = 0
    for v in range(num_nodes - 1, -1, -1):
        p = parts_N[v]
        if stuck == _MOST_STUCK:
            break
        if not _is_over(load_PC, p, weight_NC, v, most_C):
            continue
        gain = _less_excess(load_PC, p, weight_NC, v, -1, most_C, mean_C)
        best, best_gain = -1, 0.0
        for q in range(load_PC.shape[0]):
            total = gain + _less_excess(load_PC, q, weight_NC, -1, v, most_C, mean_C)
            if q != p and total > best_gain:
                best, best_gain = q, total
        for _ in range(0 if best >= 0 else min(num_nodes, _MOST_TRIES)):
            q = parts_N[other]
            if q != p:
                gain = _less_excess(load_PC, p, weight_NC, v, other, most_C, mean_C)
                gain += _less_excess(load_PC, q, weight_NC, other, v, most_C, mean_C)
                if gain > 0.0:
                    add_node(load_PC, q, weight_NC, other, -1)
                    add_node(load_PC, p, weight_NC, other, 1)
                    parts_N[other], best = p, q
                    break
            other = other + 1 if other + 1 < num_nodes else 0
        stuck += 1
        if best >= 0:
            stuck = 0
            add_node(load_PC, p, weight_NC, v, -1)
            add_node(load_PC, best, weight_NC, v, 1)
            parts_N[v] = best
            changed = True
    return changed

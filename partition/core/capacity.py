"""How much a part may hold: limits of balance as hard capacities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.core.degrees import count_degrees
from graphtheta.partition.core.partitioner import Balance, BalanceOf
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream

__all__ = [
    "Capacities",
    "add_node",
    "demand",
    "emptiest",
    "fits",
    "node_capacities",
    "only_limit",
    "part_loads",
]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)

_DEFAULT_LIMIT = 1.05  # of nodes, where no limit is asked for
_LOOSE_LIMIT = 1.5  # of nodes, where only others are


@dataclass(frozen=True, slots=True)
class Capacities:
    """What each node weighs, for each of C limits, and how much a part may hold.

    Attributes:
        what: Of what the limits are: those asked for, and nodes.
        limits: Largest part over the mean.
        num_asked: How many of them must hold; nodes that nobody asked for come last and need not.

    Shape:
        weight_NC: (N, C) int32, or int64 where a weight needs it. total_C, most_C: (C,) int64.
        mean_C: (C,) float64, of a node's weight, 1 if all are 0.
    """

    what: tuple[BalanceOf, ...]
    limits: tuple[float, ...]
    num_asked: int
    weight_NC: NDArray[Any]
    total_C: NDArray[np.int64]
    most_C: NDArray[np.int64]
    mean_C: NDArray[np.float64]


def only_limit(name: str, balance: Balance) -> tuple[BalanceOf, float | None]:
    """Return what a method that keeps one limit shall balance, and the limit; nodes by default.

    Raises:
        PartitionError: If several limits are asked for.
    """
    limits = balance.limits()
    if len(limits) > 1:
        raise PartitionError(
            f"partition: expected one limit of balance for {name}, got {len(limits)} "
            f"({', '.join(limits)}). Leave one, or take ldg, fennel or lpa, which keep several."
        )
    return next(iter(limits.items()), ("nodes", None))


def node_capacities(
    stream: EdgeStream, num_parts: int, balance: Balance, resources: Resources
) -> Capacities:
    """Return ceil(limit * total / num_parts) for each limit; of nodes 1.05 if none is asked.

    Nodes are limited always, if loosely: else nodes without in-edges or outside the training set,
    which weigh nothing, would fill up one part.

    Communication:
        That of `count_degrees` if edges are limited.

    Raises:
        PartitionError: If one node alone is more than a part may hold.
    """
    limits = balance.limits() or {"nodes": _DEFAULT_LIMIT}
    num_asked = len(limits)
    limits.setdefault("nodes", _LOOSE_LIMIT)
    columns = [_weights(stream, each, balance, resources) for each in limits]
    heaviest = max(int(column.max()) for column in columns)
    weight_NC = np.empty(
        (stream.num_nodes, len(limits)), np.int32 if heaviest < 2**31 else np.int64
    )
    for c, column in enumerate(columns):
        weight_NC[:, c] = column
    total_C = np.array([column.sum(dtype=np.int64) for column in columns], np.int64)
    most_C = np.ceil(np.array(list(limits.values())) * total_C / num_parts - 1e-9).astype(np.int64)
    for c, ((each, limit), column) in enumerate(zip(limits.items(), columns, strict=True)):
        node = int(column.argmax())
        if column[node] > most_C[c]:
            mean = int(total_C[c]) / num_parts
            raise PartitionError(
                f"partition: expected no node above {int(most_C[c])} in-edges (the limit "
                f"{each}={limit:g} for {num_parts} parts), got {int(column[node])} at the node of "
                f"key {node}, all in one part of any edge-cut. Raise {each} to "
                f"{column[node] / mean:.3g}, ask for fewer parts, or take a vertex-cut such as dbh."
            )
    mean_C = np.where(total_C > 0, total_C / stream.num_nodes, 1.0)
    return Capacities(
        tuple(limits), tuple(limits.values()), num_asked, weight_NC, total_C, most_C, mean_C
    )


def part_loads(
    parts_N: NDArray[np.int32], num_parts: int, capacities: Capacities
) -> NDArray[np.int64]:
    """Return what the nodes of each part weigh together.

    Shape:
        parts_N: (N,). Returns (P, C) int64.
    """
    load_PC = np.zeros((num_parts, len(capacities.what)), np.int64)
    _add_up(parts_N, capacities.weight_NC, load_PC)
    return load_PC


# -- compiled: one node, one part -----------------------------------------------------------------


@_jit
def fits(
    load_PC: NDArray[np.int64],
    part: int,
    weight_NC: NDArray[Any],
    node: int,
    most_C: NDArray[np.int64],
) -> bool:  # pragma: no cover - compiled
    """Return whether a part has room for a node in all that is limited."""
    for c in range(most_C.shape[0]):
        if load_PC[part, c] + weight_NC[node, c] > most_C[c]:
            return False
    return True


@_jit
def demand(
    weight_NC: NDArray[Any], node: int, mean_C: NDArray[np.float64], demand_C: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    """Write how much a node cares how full a part is of each that is limited; the sum is 1.

    A hub looks for a part with room for edges, a node without in-edges for one with room for nodes:
    otherwise some parts would fill up with edges, and others with nodes.
    """
    total = 0.0
    for c in range(mean_C.shape[0]):
        demand_C[c] = weight_NC[node, c] / mean_C[c]
        total += demand_C[c]
    for c in range(mean_C.shape[0]):
        demand_C[c] = demand_C[c] / total if total > 0.0 else 1.0 / mean_C.shape[0]


@_jit
def emptiest(
    load_PC: NDArray[np.int64],
    weight_NC: NDArray[Any],
    node: int,
    most_C: NDArray[np.int64],
    demand_C: NDArray[np.float64],
    must_fit: bool,
) -> int:  # pragma: no cover - compiled
    """Return the least full part with room for a node, the lowest of equals; -1: none has room."""
    best, best_full = -1, np.inf
    for p in range(load_PC.shape[0]):
        full = 0.0
        for c in range(most_C.shape[0]):
            full += demand_C[c] * load_PC[p, c] / max(most_C[c], 1)
        if full < best_full and (not must_fit or fits(load_PC, p, weight_NC, node, most_C)):
            best, best_full = p, full
    return best


@_jit
def add_node(
    load_PC: NDArray[np.int64], part: int, weight_NC: NDArray[Any], node: int, sign: int
) -> None:  # pragma: no cover - compiled
    """Add a node's weights to those of a part, or take them away."""
    for c in range(load_PC.shape[1]):
        load_PC[part, c] += sign * weight_NC[node, c]


# -- the rest -------------------------------------------------------------------------------------


def _weights(
    stream: EdgeStream, what: BalanceOf, balance: Balance, resources: Resources
) -> NDArray[Any]:
    if what == "edges":
        return count_degrees(stream, resources, "in")
    if what == "train":
        assert balance.is_train is not None, "a limit of training nodes comes with which they are"
        return balance.is_train.view(np.int8)
    return np.ones(stream.num_nodes, np.int8)


@_jit
def _add_up(
    parts_N: NDArray[np.int32], weight_NC: NDArray[Any], load_PC: NDArray[np.int64]
) -> None:  # pragma: no cover - compiled
    for v in range(np.uint64(parts_N.shape[0])):
        p = np.uint64(parts_N[v])
        for c in range(np.uint64(weight_NC.shape[1])):
            load_PC[p, c] += weight_NC[v, c]

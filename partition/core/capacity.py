"""Capacities of parts: balance limits as the most that a part may hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.core.degrees import count_degrees
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.partitioner import Balance, BalanceOf, PartitionJob

__all__ = [
    "Capacities",
    "NodeWeights",
    "add_node",
    "fill_ratio",
    "fits",
    "least_full",
    "limit_shares",
    "node_capacities",
    "part_loads",
    "single_limit",
]


_DEFAULT_LIMIT = 1.05  # of nodes, if no limit is set
_LOOSE_LIMIT = 1.5  # of nodes, if only other limits are set


class NodeWeights(NamedTuple):
    """Weights of the nodes and capacity of a part, for each of C balance limits.

    Shape:
        weight_NC: (N, C) int32, or int64 if a weight needs it. capacity_C: (C,) int64. mean_C: (C,)
        float64, mean weight of a node, or 1 if all weights are 0.
    """

    weight_NC: NDArray[Any]
    capacity_C: NDArray[np.int64]
    mean_C: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Capacities:
    """Balance limits as capacities of parts.

    Attributes:
        limits: Largest part divided by the mean, by name, such as `nodes` or `types (paper)`: the
            limits that are set, then nodes.
        num_required: Number of limits that must hold. A limit of nodes that the user did not set
            comes last and may be exceeded.
        weights: Weights and capacities, in the order of the limits.
    """

    limits: dict[str, float]
    num_required: int
    weights: NodeWeights


def single_limit(name: str, balance: Balance) -> tuple[BalanceOf, float | None]:
    """Return the only limit that is set and what it is of; ("nodes", None) if none is set.

    Args:
        name: Name of a method that supports one limit.
        balance: Limits that the user set.

    Raises:
        PartitionError: If several limits are set.
    """
    limits = balance.limits()
    if len(limits) > 1:
        raise PartitionError(
            f"partition: expected one balance limit for {name}, got {len(limits)} "
            f"({', '.join(limits)}). Keep one, or use ldg, fennel or lpa, which support several."
        )
    return next(iter(limits.items()), ("nodes", None))


def node_capacities(job: PartitionJob) -> Capacities:
    """Return the capacities for some balance limits: ceil(limit * total / num_parts) each.

    Nodes always have a limit: 1.05 if no limit is set, 1.5 if only others are. Without it, nodes
    without in-edges or outside the training set, which weigh nothing, would fill up one part.

    Communication:
        That of `count_degrees` if edges are limited.

    Raises:
        PartitionError: If one node alone exceeds the capacity of a part.
    """
    num_nodes, num_parts = job.stream.num_nodes, job.num_parts
    given = job.balance.limits() or {"nodes": _DEFAULT_LIMIT}
    limited = [one for what, limit in given.items() for one in _weights(job, what, limit)]
    num_required = len(limited)
    if "nodes" not in given:
        limited += _weights(job, "nodes", _LOOSE_LIMIT)
    limits = {what: limit for what, limit, _ in limited}
    columns = [weight_N for _, _, weight_N in limited]
    heaviest = max(int(weight_N.max()) for weight_N in columns)
    dtype = np.int32 if heaviest < 2**31 else np.int64
    weight_NC = np.empty((num_nodes, len(limits)), dtype)
    for c, weight_N in enumerate(columns):
        weight_NC[:, c] = weight_N
    total_C = np.array([weight_N.sum(dtype=np.int64) for weight_N in columns], np.int64)
    ratio_C = np.array(list(limits.values()))
    capacity_C = np.ceil(ratio_C * total_C / num_parts - 1e-9).astype(np.int64)
    for c, ((what, limit), weight_N) in enumerate(zip(limits.items(), columns, strict=True)):
        node = int(weight_N.argmax())
        if weight_N[node] > capacity_C[c]:
            mean = int(total_C[c]) / num_parts
            raise PartitionError(
                f"partition: expected no node above {int(capacity_C[c])} in-edges (the limit "
                f"{what}={limit:g} for {num_parts} parts), got {int(weight_N[node])} at the node "
                f"with key {node}, which an edge-cut keeps in one part. Raise {what} to "
                f"{weight_N[node] / mean:.3g}, use fewer parts, or use a vertex-cut such as dbh."
            )
    mean_C = np.where(total_C > 0, total_C / num_nodes, 1.0)
    return Capacities(limits, num_required, NodeWeights(weight_NC, capacity_C, mean_C))


def part_loads(
    parts_N: NDArray[np.int32], num_parts: int, weights: NodeWeights
) -> NDArray[np.int64]:
    """Return the sum of the weights of the nodes of each part.

    Shape:
        parts_N: (N,). Returns (P, C) int64.
    """
    load_PC = np.zeros((num_parts, weights.capacity_C.shape[0]), np.int64)
    _add_nodes(parts_N, weights, load_PC)
    return load_PC


def _weights(
    job: PartitionJob, what: BalanceOf, limit: float
) -> list[tuple[str, float, NDArray[Any]]]:
    """Return the name, the limit and the weights of the nodes of each constraint of a limit."""
    num_nodes = job.stream.num_nodes
    if what == "types":
        assert job.balance.type_counts is not None, "a limit of types comes with their sizes"
        found, first = [], 0
        for name, count in job.balance.type_counts.items():
            weight_N = np.zeros(num_nodes, np.int8)
            weight_N[first : first + count] = 1
            found.append((f"{what} ({name})", limit, weight_N))
            first += count
        return found
    if what == "edges":
        return [(what, limit, count_degrees(job.stream, job.resources, "in"))]
    if what == "train":
        is_train = job.balance.is_train
        assert is_train is not None, "a limit of training nodes comes with their mask"
        return [(what, limit, is_train.view(np.int8))]
    return [(what, limit, np.ones(num_nodes, np.int8))]


# -- compiled -------------------------------------------------------------------------------------


@jit
def fits(load_PC: NDArray[np.int64], part: int, weights: NodeWeights, node: int) -> bool:
    """Return whether a part has room for a node under every limit."""
    for c in range(load_PC.shape[1]):
        if load_PC[part, c] + weights.weight_NC[node, c] > weights.capacity_C[c]:
            return False
    return True


@jit
def limit_shares(weights: NodeWeights, node: int, share_C: NDArray[np.float64]) -> None:
    """Write the share of each limit in the normalised weight of a node; the shares sum to 1.

    A hub then looks for a part with room for edges, and a node without in-edges for a part with
    room for nodes. Otherwise some parts would fill up with edges and others with nodes.
    """
    num_limits, total = share_C.shape[0], 0.0
    for c in range(num_limits):
        share_C[c] = weights.weight_NC[node, c] / weights.mean_C[c]
        total += share_C[c]
    for c in range(num_limits):
        share_C[c] = share_C[c] / total if total > 0.0 else 1.0 / num_limits


@jit
def fill_ratio(
    load_PC: NDArray[np.int64], part: int, weights: NodeWeights, share_C: NDArray[np.float64]
) -> float:
    """Return how full a part is, 1 at its capacity: the mean over the limits, weighted by share."""
    ratio = 0.0
    for c in range(load_PC.shape[1]):
        ratio += share_C[c] * load_PC[part, c] / max(weights.capacity_C[c], 1)
    return ratio


@jit
def least_full(
    load_PC: NDArray[np.int64],
    weights: NodeWeights,
    node: int,
    share_C: NDArray[np.float64],
    must_fit: bool,
) -> int:
    """Return the least full part, the first on ties; -1 if `must_fit` and none has room."""
    best, best_ratio = -1, np.inf
    for p in range(load_PC.shape[0]):
        ratio = fill_ratio(load_PC, p, weights, share_C)
        if ratio < best_ratio and (not must_fit or fits(load_PC, p, weights, node)):
            best, best_ratio = p, ratio
    return best


@jit
def add_node(
    load_PC: NDArray[np.int64], part: int, weights: NodeWeights, node: int, sign: int
) -> None:
    """Add a node's weights to the load of a part, or subtract them if `sign` is -1."""
    for c in range(load_PC.shape[1]):
        load_PC[part, c] += sign * weights.weight_NC[node, c]


@jit
def _add_nodes(
    parts_N: NDArray[np.int32], weights: NodeWeights, load_PC: NDArray[np.int64]
) -> None:
    for v in range(parts_N.shape[0]):
        add_node(load_PC, parts_N[v], weights, v, 1)

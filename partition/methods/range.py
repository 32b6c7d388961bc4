"""Edge-cut by ranges of node keys, for graphs whose node order has locality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.core.capacity import single_limit
from graphtheta.partition.core.degrees import count_degrees
from graphtheta.partition.core.partitioner import BalanceOf, NodePartitioner, PartitionJob

__all__ = ["Range"]


class Range(NodePartitioner):
    """Assign consecutive nodes to the same part: equally many nodes, in-edges or training nodes.

    To balance types, the nodes of each type are divided separately. Good for an input order with
    locality, such as web pages crawled site by site; otherwise it cuts as many edges as a hash. The
    seed has no effect. Memory: 20 bytes per node at the peak.

    Communication:
        That of `count_degrees` if edges are balanced, else none.

    Source:
        Pınar, Aykanat, "Fast optimal load balancing algorithms for 1D partitioning", Journal of
        Parallel and Distributed Computing 64(8), 2004 (greedy parts for a given capacity).
    """

    name = "range"
    balances: frozenset[BalanceOf] = frozenset(("nodes", "edges", "train", "types"))

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        return 20 * num_nodes

    def __call__(self, job: PartitionJob) -> NDArray[np.int32]:
        num_nodes, num_parts, balance = job.stream.num_nodes, job.num_parts, job.balance
        what, limit = single_limit(self.name, balance)
        if what == "types":
            assert balance.type_counts is not None, "a limit of types comes with their sizes"
            counts = balance.type_counts.values()
            return np.concatenate([_equal_ranges(count, num_parts) for count in counts])
        if what == "edges":
            sums = np.cumsum(count_degrees(job.stream, job.resources, "in"))
        elif what == "train":
            assert balance.is_train is not None, "a limit of training nodes comes with their mask"
            sums = np.cumsum(balance.is_train, dtype=np.int64)
        if what == "nodes" or not sums[-1]:
            return _equal_ranges(num_nodes, num_parts)
        bounds = _cut(sums, num_parts, what, limit)
        parts_N = np.repeat(np.arange(num_parts, dtype=np.int32), np.diff(bounds))
        assert parts_N.shape[0] == num_nodes, "ranges cover all nodes"
        return parts_N


def _equal_ranges(num_nodes: int, num_parts: int) -> NDArray[np.int32]:
    # Sizes differ by one node at most, which no limit can improve.
    bounds = np.arange(num_parts + 1) * num_nodes // num_parts
    return np.repeat(np.arange(num_parts, dtype=np.int32), np.diff(bounds))


def _cut(
    sums: NDArray[np.int64], num_parts: int, what: BalanceOf, limit: float | None
) -> NDArray[np.int64]:
    """Return where parts begin: at equal sums; if that breaks the limit, fill part after part."""
    num_nodes, total = sums.shape[0], int(sums[-1])
    targets = np.arange(1, num_parts) * total // num_parts
    inner = np.searchsorted(sums, targets, side="right")
    # Cut at the nearest sum: a node that would overfill a part begins the next one.
    before = np.where(inner > 0, sums[np.maximum(inner, 1) - 1], 0)
    after = sums[np.minimum(inner, num_nodes - 1)]
    inner = inner + (after - targets < targets - before)
    bounds = np.concatenate([[0], np.minimum(np.maximum.accumulate(inner), num_nodes), [num_nodes]])
    most = None if limit is None else int(np.ceil(limit * total / num_parts - 1e-9))
    if most is None or _max_load(sums, bounds) <= most:
        return bounds
    bounds = _fill(sums, num_parts, most)
    if bounds[-1] < num_nodes:
        low, high = most, total  # a capacity that is too small, and one that suffices
        while high - low > 1:
            middle = (low + high) // 2
            enough = _fill(sums, num_parts, middle)[-1] == num_nodes
            low, high = (low, middle) if enough else (middle, high)
        raise PartitionError(
            f"partition: expected ranges within the limit {what}={limit:g} for {num_parts} parts, "
            f"got {high * num_parts / total:.4g} at best. Raise the limit, or use ldg or fennel, "
            "which do not depend on the order of nodes."
        )
    return bounds


def _max_load(sums: NDArray[np.int64], bounds: NDArray[np.int64]) -> int:
    return int(np.diff(np.concatenate([[0], sums])[bounds]).max())


def _fill(sums: NDArray[np.int64], num_parts: int, most: int) -> NDArray[np.int64]:
    bounds = np.zeros(num_parts + 1, np.int64)
    for part in range(num_parts):
        before = sums[bounds[part] - 1] if bounds[part] else 0
        bounds[part + 1] = np.searchsorted(sums, before + most, side="right")
    return bounds

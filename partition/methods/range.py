"""Edge-cut by ranges of node keys: for graphs whose order already means something."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.core.capacity import only_limit
from graphtheta.partition.core.degrees import count_degrees
from graphtheta.partition.core.partitioner import Balance, BalanceOf
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream

__all__ = ["Range"]


class Range:
    """Put consecutive nodes into one part: as many nodes, in-edges or training nodes in each.

    Keeps the order of the input, as of pages crawled site by site; where that has no meaning, it
    cuts as many edges as a hash. Heeds no seed. 16 bytes a node at the peak if edges are balanced.

    Communication:
        None, but that of `count_degrees` if edges are balanced.

    Source:
        Pınar, Aykanat, "Fast optimal load balancing algorithms for 1D partitioning", Journal of
        Parallel and Distributed Computing 64(8), 2004 (parts tested against a capacity).
    """

    name = "range"
    cut: Literal["edge"] = "edge"
    balances: frozenset[BalanceOf] = frozenset(("nodes", "edges", "train"))

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of the bytes that a rank holds at the peak."""
        return 20 * num_nodes

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
        num_nodes = stream.num_nodes
        what, limit = only_limit(self.name, balance)
        if what == "edges":
            sums = np.cumsum(count_degrees(stream, resources, "in"))
        elif what == "train":
            assert balance.is_train is not None, "a limit of training nodes comes with them"
            sums = np.cumsum(balance.is_train, dtype=np.int64)
        if what == "nodes" or not sums[-1]:
            # One node more or less is the best there is, whatever the limit.
            bounds = np.arange(num_parts + 1) * num_nodes // num_parts
        else:
            bounds = _cut(sums, num_parts, what, limit)
        parts_N = np.repeat(np.arange(num_parts, dtype=np.int32), np.diff(bounds))
        assert parts_N.shape[0] == num_nodes, "ranges cover all nodes"
        return parts_N


def _cut(
    sums: NDArray[np.int64], num_parts: int, what: BalanceOf, limit: float | None
) -> NDArray[np.int64]:
    """Return where parts begin: at equal sums, else by filling up one after the other."""
    num_nodes, total = sums.shape[0], int(sums[-1])
    targets = np.arange(1, num_parts) * total // num_parts
    inner = np.searchsorted(sums, targets, side="right")
    # The cut nearest to the target: a node that would overfill a part begins the next.
    before = np.where(inner > 0, sums[np.maximum(inner, 1) - 1], 0)
    after = sums[np.minimum(inner, num_nodes - 1)]
    inner = inner + (after - targets < targets - before)
    bounds = np.concatenate([[0], np.minimum(np.maximum.accumulate(inner), num_nodes), [num_nodes]])
    most = None if limit is None else int(np.ceil(limit * total / num_parts - 1e-9))
    if most is None or _largest(sums, bounds) <= most:
        return bounds
    bounds = _fill(sums, num_parts, most)
    if bounds[-1] < num_nodes:
        low, high = most, total  # a capacity that is too small, and one that is enough
        while high - low > 1:
            middle = (low + high) // 2
            enough = _fill(sums, num_parts, middle)[-1] == num_nodes
            low, high = (low, middle) if enough else (middle, high)
        raise PartitionError(
            f"partition: expected ranges within the limit {what}={limit:g} for {num_parts} parts, "
            f"got {high * num_parts / total:.4g} at best. Raise the limit, or take ldg or fennel, "
            "which are not bound to the order of nodes."
        )
    return bounds


def _largest(sums: NDArray[np.int64], bounds: NDArray[np.int64]) -> int:
    return int(np.diff(np.concatenate([[0], sums])[bounds]).max())


def _fill(sums: NDArray[np.int64], num_parts: int, most: int) -> NDArray[np.int64]:
    bounds = np.zeros(num_parts + 1, np.int64)
    for part in range(num_parts):
        held = sums[bounds[part] - 1] if bounds[part] else 0
        bounds[part + 1] = np.searchsorted(sums, held + most, side="right")
    return bounds

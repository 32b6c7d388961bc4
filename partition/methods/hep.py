"""Vertex-cut in two ways: edges of small nodes by growing parts, edges between hubs by HDRF."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.degrees import count_degrees
from graphtheta.partition.core.edge_blocks import EdgeBlocks, edge_cap
from graphtheta.partition.core.expansion import UnassignedEdges, expansion_bytes
from graphtheta.partition.core.partitioner import Balance, BalanceOf, EdgeParts
from graphtheta.partition.core.replica_bitset import new_replicas, replica_bytes, words_of
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream, chunk_ranges
from graphtheta.partition.core.thread_pool import ThreadPool
from graphtheta.partition.methods.hdrf import ReplicaRule, part_order
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["HybridEdgePartitioner"]


class HybridEdgePartitioner:
    """Keep edges with an endpoint of low degree in memory and grow parts in them; stream the rest.

    A degree is low up to `tau` times the mean. Parts grow one after the other, by one thread, each
    to its share of those edges (neighbourhood expansion). Edges between two nodes of high degree
    are then placed by the score of HDRF, beginning with the replicas and loads that growing made.

    Memory: 8 bytes a node, and P bits rounded up to 64; on the first rank also 28 bytes a node, 4
    for each edge in memory, and 8 for each endpoint of low degree. Four passes: degrees, sizes,
    lists, placement.

    Communication:
        One all-reduce of 8 N bytes; a broadcast of the replicas; 4 bytes an edge broadcast, and
        those of `EdgeBlocks`. Parts grow on the first rank only: others wait.

    Args:
        tau: Highest low degree over the mean degree. More of the graph is in memory the higher.
        balance_weight: Lambda of HDRF.
        block: The most edges decided against one state. An argument of the result.
        lanes: Pieces of a block decided at the same time. An argument of the result.

    Source:
        Mayer, Jacobsen, "Hybrid edge partitioner: partitioning large power-law graphs under memory
        constraints", SIGMOD 2021.
    """

    name = "hep"
    cut: Literal["vertex"] = "vertex"
    balances: frozenset[BalanceOf] = frozenset({"edges"})

    def __init__(
        self,
        tau: float = 10.0,
        balance_weight: float = 1.1,
        block: int = 1 << 17,
        lanes: int = 64,
    ) -> None:
        self.tau, self.balance_weight = tau, balance_weight
        self.block, self.lanes = block, lanes

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return the bytes that the first rank holds over buffers if all degrees are low."""
        growing = expansion_bytes(num_nodes, num_edges, 2 * num_edges)
        return 8 * num_nodes + replica_bytes(num_nodes, num_parts) + growing

    def __call__(
        self,
        stream: EdgeStream,
        num_parts: int,
        *,
        seed: int,
        balance: Balance,
        resources: Resources,
    ) -> Iterator[EdgeParts]:
        """Yield the parts of this rank's share of each million edges."""
        num_nodes, num_edges = stream.num_nodes, stream.num_edges
        held = 8 * num_nodes + replica_bytes(num_nodes, num_parts)
        resources.check_memory(
            held + expansion_bytes(num_nodes, 0, 0),
            "the degree and the parts of every node",
            "Use the method dbh, which needs 8 bytes a node, or edge-hash, which needs none.",
        )
        degree_N = count_degrees(stream, resources)
        highest = min(
            int(self.tau * 2 * num_edges / max(1, num_nodes)), int(degree_N.max(initial=0))
        )
        low_edges = self._low_edges(stream, degree_N, highest, resources)
        entries = int(degree_N.sum(where=degree_N <= highest))
        resources.check_memory(
            held + expansion_bytes(num_nodes, low_edges, entries),
            f"{low_edges} edges of nodes of low degree",
            f"Lower tau, which is {self.tau}, or take hdrf, which holds no edges.",
        )
        replicas, loads_P = new_replicas(num_nodes, num_parts), np.zeros(num_parts, np.int64)
        first_seed = int(hash_keys(np.zeros(1, np.int64), seed, Purpose.PLACEMENT)[0]) % max(
            1, num_nodes
        )
        low_parts = np.empty(0, np.int32)
        if resources.comm.rank == 0:
            lists = UnassignedEdges(degree_N, highest, low_edges)
            with resources.progress.phase("read small nodes", num_edges, "edges") as advance:
                for start, stop in chunk_ranges(0, num_edges):
                    lists.add(*stream.read(start, stop))
                    advance(stop - start)
            with resources.progress.phase("grow parts", low_edges, "edges") as advance:
                low_parts = lists.expand(loads_P, replicas, words_of(num_parts), first_seed)
                advance(low_edges)
            del lists
        resources.comm.broadcast(replicas, stage="hep: send replicas")
        resources.comm.broadcast(loads_P, stage="hep: send loads")
        cap = edge_cap(balance.edges, num_edges, num_parts)
        rule = ReplicaRule(degree_N, replicas, cap, self.balance_weight, words_of(num_parts))
        order_P = part_order(num_parts, seed)
        with (
            resources.progress.phase("place hubs", num_edges, "edges") as advance,
            ThreadPool(resources.threads) as pool,
        ):
            lockstep = EdgeBlocks(
                rule,
                loads_P,
                cap,
                block=self.block,
                lanes=self.lanes,
                resources=resources,
                pool=pool,
                stage="hep: exchange decisions",
                seen=low_edges,
            )
            taken = 0
            for start, stop in chunk_ranges(0, num_edges):
                src, dst = stream.read(start, stop)
                parts = np.empty(stop - start, np.int32)
                if resources.comm.rank == 0:
                    taken = _fill(src, dst, degree_N, highest, low_parts, taken, parts)
                resources.comm.broadcast(parts, stage="hep: send parts of small nodes")
                lockstep.place(src, dst, parts)
                first, last = resources.share(start, stop)
                mine = parts[first - start : last - start]
                advance(stop - start)
                yield first, order_P[np.maximum(mine, -1 - mine)]

    def _low_edges(
        self,
        stream: EdgeStream,
        degree_N: NDArray[np.int64],
        highest: int,
        resources: Resources,
    ) -> int:
        count = 0
        with resources.progress.phase("count small nodes", stream.num_edges, "edges") as advance:
            for start, stop in chunk_ranges(0, stream.num_edges):
                count += _count_low(*stream.read(start, stop), degree_N, highest)
                advance(stop - start)
        return count


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _count_low(
    src: NDArray[Any], dst: NDArray[Any], degree_N: NDArray[np.int64], highest: int
) -> int:  # pragma: no cover - compiled
    count = 0
    for i in range(np.uint64(src.shape[0])):
        low_u = degree_N[np.uint64(src[i])] <= highest
        count += low_u | (degree_N[np.uint64(dst[i])] <= highest)
    return count


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _fill(
    src: NDArray[Any],
    dst: NDArray[Any],
    degree_N: NDArray[np.int64],
    highest: int,
    low_parts: NDArray[np.int32],
    taken: int,
    parts: NDArray[np.int32],
) -> int:  # pragma: no cover - compiled
    # -1 - part where growing gave one, 0 for `EdgeBlocks` to decide.
    for i in range(np.uint64(src.shape[0])):
        low_u = degree_N[np.uint64(src[i])] <= highest
        if low_u | (degree_N[np.uint64(dst[i])] <= highest):
            parts[i] = -1 - low_parts[taken]
            taken += 1
        else:
            parts[i] = 0
    return taken

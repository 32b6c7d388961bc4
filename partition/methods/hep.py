"""Hybrid vertex-cut (HEP): grow parts around nodes of low degree; place hubs' edges by HDRF."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.degrees import count_degrees
from graphtheta.partition.core.edge_blocks import (
    DEFAULT_EDGE_BLOCKS,
    USE_LESS_MEMORY,
    EdgeBlocks,
    edge_cap,
)
from graphtheta.partition.core.expansion import UnassignedEdges, expansion_bytes
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.partitioner import (
    BalanceOf,
    EdgePartitioner,
    EdgeParts,
    PartitionJob,
)
from graphtheta.partition.core.replica_bitset import new_replicas, replica_bytes
from graphtheta.partition.core.stream import edge_chunks
from graphtheta.partition.methods.hdrf import ReplicaRule
from graphtheta.rng.philox import Purpose, hash_keys
from graphtheta.wording import counted

__all__ = ["HybridEdgePartitioner"]


class HybridEdgePartitioner(EdgePartitioner):
    """Grow parts over the edges with an endpoint of low degree, in memory; stream the other edges.

    A degree is low if it is at most `tau` times the mean. Parts grow one after another, by
    neighbourhood expansion in one thread, each to its share of those edges. Edges between two nodes
    of high degree are then assigned by the score of HDRF, starting from the replicas and loads of
    the grown parts.

    Memory: 8 bytes per node, plus P bits per node, rounded up to 64. Rank 0 also holds 28 bytes per
    node, 4 for each edge with an endpoint of low degree, and 8 for each such endpoint. Four passes:
    degrees, sizes, lists, placement.

    Communication:
        One all-reduce of 8 N bytes; broadcasts of the replicas and of 4 bytes per edge; that of
        `EdgeBlocks`. Only rank 0 grows parts; the others wait.

    Args:
        tau: Highest low degree, divided by the mean degree. The higher, the more edges are held in
            memory.
        balance_weight: Weight of the balance term of HDRF (lambda in its paper).
        blocks: Sizes of the blocks that are decided in parallel.

    Source:
        Mayer, Jacobsen, "Hybrid edge partitioner: partitioning large power-law graphs under memory
        constraints", SIGMOD 2021.
    """

    name = "hep"
    balances: frozenset[BalanceOf] = frozenset({"edges"})

    def __init__(
        self,
        tau: float = 10.0,
        balance_weight: float = 1.1,
        blocks: EdgeBlocks = DEFAULT_EDGE_BLOCKS,
    ) -> None:
        self.tau, self.balance_weight, self.blocks = tau, balance_weight, blocks

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of the peak memory of rank 0 if all degrees are low."""
        lists = expansion_bytes(num_nodes, num_edges, 2 * num_edges)
        return 8 * num_nodes + replica_bytes(num_nodes, num_parts) + lists

    def __call__(self, job: PartitionJob) -> Iterator[EdgeParts]:
        stream, num_parts, resources = job.stream, job.num_parts, job.resources
        comm, num_nodes = resources.comm, stream.num_nodes
        node_bytes = 8 * num_nodes + replica_bytes(num_nodes, num_parts)
        resources.check_memory(
            node_bytes + expansion_bytes(num_nodes, 0, 0),
            "the degree and the parts of every node",
            USE_LESS_MEMORY,
        )
        degree_N = count_degrees(stream, resources)
        highest = int(self.tau * 2 * stream.num_edges / max(1, num_nodes))
        highest = min(highest, int(degree_N.max(initial=0)))
        low_edges = sum(
            _count_low(src, dst, degree_N, highest)
            for src, dst in edge_chunks(stream, resources, "count edges of low degree")
        )
        num_entries = int(degree_N.sum(where=degree_N <= highest))
        resources.check_memory(
            node_bytes + expansion_bytes(num_nodes, low_edges, num_entries),
            f"{counted(low_edges, 'edge')} of nodes of low degree",
            f"Lower tau, which is {self.tau}, or use hdrf, which holds no edges.",
        )
        replicas, loads_P = new_replicas(num_nodes, num_parts), np.zeros(num_parts, np.int64)
        low_parts = np.empty(0, np.int32)
        if comm.rank == 0:
            edges = UnassignedEdges(degree_N, highest, low_edges)
            for src, dst in edge_chunks(stream, resources, "read edges of low degree"):
                edges.add(src, dst)
            drawn = int(hash_keys(np.zeros(1, np.int64), job.seed, Purpose.PLACEMENT)[0])
            with resources.progress.phase("grow parts", low_edges, "edges") as advance:
                low_parts = edges.expand(loads_P, replicas, drawn % max(1, num_nodes))
                advance(low_edges)
            del edges
        comm.broadcast(replicas.bits, stage="hep: broadcast replicas")
        comm.broadcast(loads_P, stage="hep: broadcast loads")
        taken = 0

        def preassign(src: NDArray[Any], dst: NDArray[Any]) -> NDArray[np.int32]:
            nonlocal taken
            parts = np.empty(src.shape[0], np.int32)
            if comm.rank == 0:
                taken = _take_parts(src, dst, degree_N, highest, low_parts, taken, parts)
            comm.broadcast(parts, stage="hep: broadcast parts of low degree")
            return parts

        cap = edge_cap(job.balance.edges, stream.num_edges, num_parts)
        yield from self.blocks.place(
            job,
            ReplicaRule(degree_N, replicas, num_parts, cap, self.balance_weight),
            loads_P,
            cap,
            title="place edges of hubs",
            name=self.name,
            preassign=preassign,
            num_preassigned=low_edges,
        )


@jit
def _count_low(
    src: NDArray[Any], dst: NDArray[Any], degree_N: NDArray[np.int64], highest: int
) -> int:
    count = 0
    for i in range(np.uint64(src.shape[0])):
        low_u = degree_N[np.uint64(src[i])] <= highest
        count += low_u | (degree_N[np.uint64(dst[i])] <= highest)
    return count


@jit
def _take_parts(
    src: NDArray[Any],
    dst: NDArray[Any],
    degree_N: NDArray[np.int64],
    highest: int,
    low_parts: NDArray[np.int32],
    taken: int,
    parts: NDArray[np.int32],
) -> int:
    # Write -1 - part for edges of the grown parts, and 0 for edges that `EdgeBlocks` decides.
    for i in range(np.uint64(src.shape[0])):
        low_u = degree_N[np.uint64(src[i])] <= highest
        if low_u | (degree_N[np.uint64(dst[i])] <= highest):
            parts[i] = -1 - low_parts[taken]
            taken += 1
        else:
            parts[i] = 0
    return taken

"""Vertex-cut by existing replicas (HDRF): an edge goes where its endpoints are; hubs are cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.degrees import count_degrees
from graphtheta.partition.core.edge_blocks import (
    DEFAULT_EDGE_BLOCKS,
    USE_LESS_MEMORY,
    EdgeBatch,
    EdgeBlocks,
    edge_cap,
)
from graphtheta.partition.core.intrinsics import inline_jit, jit, lowest_bit
from graphtheta.partition.core.partitioner import (
    BalanceOf,
    EdgePartitioner,
    EdgeParts,
    PartitionJob,
)
from graphtheta.partition.core.replica_bitset import (
    AHEAD,
    PART_BITS,
    Replicas,
    add_replicas,
    new_replicas,
    prefetch_node,
    replica_bytes,
)

__all__ = ["HighDegreeReplicatedFirst", "ReplicaRule"]

_NONE = (1 << 63) - 1  # key for "no part", larger than any part's key


class HighDegreeReplicatedFirst(EdgePartitioner):
    """Assign each edge to the part of the highest score: replicas of its endpoints, few edges.

    A part scores 1 + share for each endpoint that it has a replica of, where `share` is the other
    endpoint's share of the sum of both degrees; plus `balance_weight` times (max - load) /
    (1 + max - min). Degrees are those of the whole graph, counted in a first pass: they give fewer
    replicas than degrees counted so far (RMAT 2^20 x 16, 32 parts: 3.24 per node instead of 3.25;
    communities of 256: 6.85 instead of 7.02). Ties go to the part of lower load, then to the first
    in a random order.

    Only the parts of either endpoint and the least loaded part are scored: without a replica of
    either, the score depends on the load only. Edges are decided in parallel blocks (`EdgeBlocks`):
    one edge at a time gives 3.237 replicas per node where the default gives 3.243.

    Memory: 8 bytes per node, plus P bits per node, rounded up to 64. Two passes.

    Communication:
        That of `EdgeBlocks`, and one all-reduce of 8 N bytes.

    Args:
        balance_weight: Weight of the balance term (lambda in the paper).
        blocks: Sizes of the blocks that are decided in parallel.

    Source:
        Petroni, Querzoni, Daudjee, Kamali, Iacoboni, "HDRF: stream-based partitioning for
        power-law graphs", CIKM 2015.
    """

    name = "hdrf"
    balances: frozenset[BalanceOf] = frozenset({"edges"})

    def __init__(
        self, balance_weight: float = 1.1, blocks: EdgeBlocks = DEFAULT_EDGE_BLOCKS
    ) -> None:
        self.balance_weight, self.blocks = balance_weight, blocks

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        return 8 * num_nodes + replica_bytes(num_nodes, num_parts)

    def __call__(self, job: PartitionJob) -> Iterator[EdgeParts]:
        stream, num_parts = job.stream, job.num_parts
        job.check_memory(self, "the degree and the parts of every node", USE_LESS_MEMORY)
        degree_N = count_degrees(stream, job.resources)
        cap = edge_cap(job.balance.edges, stream.num_edges, num_parts)
        replicas = new_replicas(stream.num_nodes, num_parts)
        rule = ReplicaRule(degree_N, replicas, num_parts, cap, self.balance_weight)
        loads_P = np.zeros(num_parts, np.int64)
        yield from self.blocks.place(
            job, rule, loads_P, cap, title="place by replicas", name=self.name
        )


class ReplicaRule:
    """Score of HDRF, as a `BlockRule`.

    Args:
        degree_N: Degrees of all nodes.
        replicas: Parts of all nodes.
        num_parts: Number of parts (P).
        cap: Most edges of a part.
        balance_weight: Weight of the balance term.
    """

    def __init__(
        self,
        degree_N: NDArray[np.int64],
        replicas: Replicas,
        num_parts: int,
        cap: int,
        balance_weight: float,
    ) -> None:
        assert num_parts <= 1 << PART_BITS, "a key has room for the parts"
        self._degree, self._replicas = degree_N, replicas
        self._cap, self._balance_weight = cap, float(balance_weight)

    def decide(self, batch: EdgeBatch, bounds: NDArray[np.int64]) -> None:
        _decide(batch, bounds, self._degree, self._replicas, self._cap, self._balance_weight)

    def apply(self, src: NDArray[Any], dst: NDArray[Any], parts: NDArray[np.int32]) -> None:
        add_replicas(src, dst, parts, self._replicas)


@inline_jit
def _least_in(bits: np.uint64, base: np.uint64, key_P: NDArray[np.int64], least: np.int64) -> Any:
    # Return the least of `least` and the keys of the parts whose bits are set. A key packs load and
    # part, so that keys are ordered by load, then by part.
    while bits:
        least = min(least, key_P[base + lowest_bit(bits)])
        bits &= bits - np.uint64(1)
    return least


@jit
def _least(key_P: NDArray[np.int64]) -> Any:
    least = key_P[0]
    for i in range(np.uint64(key_P.shape[0])):
        least = min(least, key_P[i])
    return least


@jit
def _decide(
    batch: EdgeBatch,
    bounds: NDArray[np.int64],
    degree_N: NDArray[np.int64],
    replicas: Replicas,
    cap: int,
    balance_weight: float,
) -> None:
    src, dst, loads_P, load_step, parts = batch
    one, six, ahead = np.uint64(1), np.uint64(6), np.uint64(AHEAD)
    bits, words = replicas.bits, replicas.words
    key_P = np.empty(loads_P.shape[0], np.int64)
    has_room = np.empty(np.int64(words), np.uint64)
    for block in range(bounds.shape[0] - 1):
        most = np.int64(0)
        has_room[:] = 0
        for index in range(np.uint64(loads_P.shape[0])):
            part = np.uint64(index)
            load = loads_P[part]
            key_P[part] = (load << PART_BITS) | np.int64(part)
            most = max(most, load)
            if load < cap:
                has_room[part >> six] |= one << (part & np.uint64(63))
        least = _least(key_P)
        end = np.uint64(bounds[block + 1])
        for i in range(np.uint64(bounds[block]), end):
            if i + ahead < end:
                prefetch_node(np.uint64(src[i + ahead]), degree_N, replicas)
                prefetch_node(np.uint64(dst[i + ahead]), degree_N, replicas)
            if parts[i] < 0:
                continue
            u, v = np.uint64(src[i]), np.uint64(dst[i])
            degree_u, degree_v = np.float64(degree_N[u]), np.float64(degree_N[v])
            with_u = 1.0 + degree_v / (degree_u + degree_v)
            with_v = 1.0 + degree_u / (degree_u + degree_v)
            unit = balance_weight / (1.0 + np.float64(most - (least >> PART_BITS)))
            best, score = least, unit * np.float64(most - (least >> PART_BITS))
            # Among parts with replicas of the same endpoints, the least loaded one scores highest.
            # So four parts are compared: with neither endpoint, both, only one, only the other.
            key = np.int64(_NONE)
            for word in range(words):
                both = bits[u * words + word] & bits[v * words + word] & has_room[word]
                key = _least_in(both, word << six, key_P, key)
            reachable = max(with_u, with_v) + score  # upper bound for a part of one endpoint
            if key != _NONE:
                other = 3.0 + unit * np.float64(most - (key >> PART_BITS))
                if other > score or (other == score and key < best):
                    best, score = key, other
            if score <= reachable:
                of_u, of_v = np.int64(_NONE), np.int64(_NONE)
                for word in range(words):
                    in_u, in_v = bits[u * words + word], bits[v * words + word]
                    of_u = _least_in(in_u & ~in_v & has_room[word], word << six, key_P, of_u)
                    of_v = _least_in(in_v & ~in_u & has_room[word], word << six, key_P, of_v)
                if of_u != _NONE:
                    other = with_u + unit * np.float64(most - (of_u >> PART_BITS))
                    if other > score or (other == score and of_u < best):
                        best, score = of_u, other
                if of_v != _NONE:
                    other = with_v + unit * np.float64(most - (of_v >> PART_BITS))
                    if other > score or (other == score and of_v < best):
                        best, score = of_v, other
            part = np.uint64(best & ((1 << PART_BITS) - 1))
            parts[i] = np.int32(part)
            key_P[part] = best + (np.int64(load_step) << PART_BITS)
            load = key_P[part] >> PART_BITS
            most = max(most, load)
            if load >= cap:
                has_room[part >> six] &= ~(one << (part & np.uint64(63)))
            if best == least:
                least = _least(key_P)

"""Vertex-cut by clusters: nodes that meet often share a part, edges between parts cut the hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.degrees import count_degrees
from graphtheta.partition.core.edge_blocks import EdgeBlocks, edge_cap, least_loaded
from graphtheta.partition.core.partitioner import Balance, BalanceOf, EdgeParts
from graphtheta.partition.core.replica_bitset import (
    AHEAD,
    PART_BITS,
    add_replica,
    add_replicas,
    new_replicas,
    prefetch_end,
    replica_bytes,
    words_of,
)
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream, chunk_ranges
from graphtheta.partition.core.stream_clusters import join_clusters, pack
from graphtheta.partition.core.thread_pool import ThreadPool
from graphtheta.partition.methods.hdrf import part_order
from graphtheta.rng.philox import Purpose, hash_key, step_key, stream_id

__all__ = ["TwoPhaseStreaming"]

Ends = tuple[NDArray[Any], NDArray[Any]]

_HOME = (1 << PART_BITS) - 1  # a node's home in its word; its degree is above it


class TwoPhaseStreaming:
    """2PS-L: cluster the nodes, pack clusters into parts, then choose of two parts for each edge.

    An edge within one part stays there. Another goes to the part of either endpoint, whichever
    scores higher: 1 + share for each endpoint that has a replica there, `share` being the other's
    share of both degrees, so that the endpoint of higher degree is cut. If that part is full, a
    hash of the endpoint of higher degree says, and if that is full, the least loaded part.

    The paper also adds the clusters' shares of both volumes. Left out, as measured here: RMAT
    2^20 x 16 in 32 parts has 3.93 copies a node without, 4.59 with them; 128 parts 7.11, 7.87;
    communities of 256 nodes 7.94, 7.88.

    Memory: 44 bytes a node while clusters are packed; then 8, and P bits rounded up to 64. Four
    passes: degrees, clusters, edges within parts, others. Clusters are found by one thread, the
    same on each rank; 58 million edges a second here.

    Communication:
        That of `EdgeBlocks`, and one all-reduce of 8 N bytes.

    Args:
        cluster_volume: The most volume (sum of degrees) of a cluster over that of a mean part.
        alpha: Largest part over the mean, in edges, where the user gives no limit.
        block: The most edges decided against one state. An argument of the result.
        lanes: Pieces of a block decided at the same time. An argument of the result.

    Source:
        Mayer, Orujzade, Jacobsen, "Out-of-core edge partitioning at linear run-time", ICDE 2022.
    """

    name = "2ps-l"
    cut: Literal["vertex"] = "vertex"
    balances: frozenset[BalanceOf] = frozenset({"edges"})

    def __init__(
        self,
        cluster_volume: float = 0.05,
        alpha: float = 1.05,
        block: int = 1 << 17,
        lanes: int = 64,
    ) -> None:
        self.cluster_volume, self.alpha = cluster_volume, alpha
        self.block, self.lanes = block, lanes

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return the bytes that each rank holds over buffers, at the larger of two peaks."""
        return max(44 * num_nodes, 8 * num_nodes + replica_bytes(num_nodes, num_parts))

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
        num_edges = stream.num_edges
        resources.check_memory(
            self.memory(stream.num_nodes, num_edges, num_parts),
            "clusters, degrees and parts of every node",
            "Use the method dbh, which needs 8 bytes a node, or edge-hash, which needs none.",
        )
        degree_N = count_degrees(stream, resources)
        self._add_homes(stream, degree_N, num_parts, resources)
        limit = self.alpha if balance.edges is None else balance.edges
        cap = edge_cap(limit, num_edges, num_parts)
        order_P = part_order(num_parts, seed)
        with ThreadPool(resources.threads) as pool:
            rule = _TwoCandidates(degree_N, num_parts, cap, seed, pool)
            with resources.progress.phase("edges within parts", num_edges, "edges") as advance:
                for start, stop in chunk_ranges(0, num_edges):
                    rule.count_within(*stream.read(start, stop))
                    advance(stop - start)
            lockstep = EdgeBlocks(
                rule,
                rule.keep_within(),
                cap,
                block=self.block,
                lanes=self.lanes,
                resources=resources,
                pool=pool,
                stage="2ps-l: exchange decisions",
            )
            with resources.progress.phase("place by clusters", num_edges, "edges") as advance:
                for start, stop in chunk_ranges(0, num_edges):
                    src, dst = stream.read(start, stop)
                    parts = rule.within(src, dst)
                    lockstep.place(src, dst, parts)
                    first, last = resources.share(start, stop)
                    mine = parts[first - start : last - start]
                    advance(stop - start)
                    yield first, order_P[np.maximum(mine, -1 - mine)]

    def _add_homes(
        self,
        stream: EdgeStream,
        degree_N: NDArray[np.int64],
        num_parts: int,
        resources: Resources,
    ) -> None:
        num_nodes, num_edges = stream.num_nodes, stream.num_edges
        volume_N = degree_N.copy()
        cluster_N = np.arange(num_nodes, dtype=np.int32 if num_nodes < 1 << 31 else np.int64)
        largest = int(self.cluster_volume * 2 * num_edges / num_parts)
        with resources.progress.phase("cluster", num_edges, "edges") as advance:
            for start, stop in chunk_ranges(0, num_edges):
                src, dst = stream.read(start, stop)
                join_clusters(src, dst, degree_N, cluster_N, volume_N, largest)
                advance(stop - start)
        _add_homes(degree_N, pack(volume_N, num_parts), cluster_N)


class _TwoCandidates:
    """State and rule of the second phase. A node's home is its cluster's part.

    Shape:
        word_N: (N,) degree and home of each node in one word: an edge reads one line of cache an
            endpoint for both.
    """

    def __init__(
        self,
        word_N: NDArray[np.int64],
        num_parts: int,
        cap: int,
        seed: int,
        pool: ThreadPool,
    ) -> None:
        self._word, self._cap, self._pool = word_N, cap, pool
        self._words = np.uint64(words_of(num_parts))
        self._replicas = new_replicas(word_N.shape[0], num_parts)
        self._within_P = np.zeros(num_parts, np.int64)
        self._key_2, self._purpose = step_key(seed, 0), stream_id(Purpose.PLACEMENT)

    def _pieces(self, src: NDArray[Any], dst: NDArray[Any]) -> list[Ends]:
        pieces = self._pool.threads
        return list(zip(np.array_split(src, pieces), np.array_split(dst, pieces), strict=True))

    def count_within(self, src: NDArray[Any], dst: NDArray[Any]) -> None:
        """Count edges within each part, and note the replicas that they make."""

        def count(piece: Ends) -> NDArray[np.int64]:
            counts_P = np.zeros_like(self._within_P)
            _count_within(*piece, self._word, self._replicas, self._words, counts_P)
            return counts_P

        for counts_P in self._pool.map(count, self._pieces(src, dst)):
            self._within_P += counts_P

    def keep_within(self) -> NDArray[np.int64]:
        """Return the loads to begin with: edges within a part keep their room, if it suffices.

        Where it does not, they queue up with the others; the replicas noted for them are a guess.
        """
        self._kept_P = self._within_P <= self._cap
        return np.where(self._kept_P, self._within_P, 0)

    def within(self, src: NDArray[Any], dst: NDArray[Any]) -> NDArray[np.int32]:
        """Return -1 - part of edges that stay within a part, 0 for others."""

        def mark(piece: Ends) -> NDArray[np.int32]:
            parts = np.empty(piece[0].shape[0], np.int32)
            _mark_within(*piece, self._word, self._kept_P, parts)
            return parts

        return np.concatenate(self._pool.map(mark, self._pieces(src, dst)))

    def decide(
        self,
        src: NDArray[Any],
        dst: NDArray[Any],
        lanes: NDArray[np.int64],
        loads_P: NDArray[np.int64],
        scale: int,
        parts: NDArray[np.int32],
    ) -> None:
        """Write the better of two parts of each edge of the lanes."""
        state = (self._word, self._replicas, self._words)
        fallback = (self._cap, self._purpose, self._key_2)
        _decide(src, dst, lanes, *state, loads_P, scale, *fallback, parts)

    def apply(self, src: NDArray[Any], dst: NDArray[Any], parts: NDArray[np.int32]) -> None:
        """Add the parts to the sets of the endpoints."""
        add_replicas(src, dst, parts, self._replicas, self._words)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _add_homes(
    degree_N: NDArray[np.int64], part_N: NDArray[np.int32], cluster_N: NDArray[Any]
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(degree_N.shape[0])):
        degree_N[i] = (degree_N[i] << PART_BITS) | part_N[np.uint64(cluster_N[i])]


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _count_within(
    src: NDArray[Any],
    dst: NDArray[Any],
    word_N: NDArray[np.int64],
    replicas: NDArray[np.uint64],
    words: np.uint64,
    counts_P: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(src.shape[0])):
        u, v = np.uint64(src[i]), np.uint64(dst[i])
        home = word_N[u] & _HOME
        if home == word_N[v] & _HOME:
            part = np.uint64(home)
            counts_P[part] += 1
            add_replica(replicas, words, u, part)
            add_replica(replicas, words, v, part)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _mark_within(
    src: NDArray[Any],
    dst: NDArray[Any],
    word_N: NDArray[np.int64],
    kept_P: NDArray[np.bool_],
    parts: NDArray[np.int32],
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(src.shape[0])):
        home = word_N[np.uint64(src[i])] & _HOME
        stays = (home == word_N[np.uint64(dst[i])] & _HOME) & kept_P[np.uint64(home)]
        parts[i] = np.int32(-1 - home if stays else 0)


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _has(
    replicas: NDArray[np.uint64], words: np.uint64, node: np.uint64, part: np.uint64
) -> np.int64:  # pragma: no cover - compiled
    word = replicas[node * words + (part >> np.uint64(6))]
    return np.int64((word >> (part & np.uint64(63))) & np.uint64(1))


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _decide(
    src: NDArray[Any],
    dst: NDArray[Any],
    lanes: NDArray[np.int64],
    word_N: NDArray[np.int64],
    replicas: NDArray[np.uint64],
    words: np.uint64,
    loads_P: NDArray[np.int64],
    scale: int,
    cap: int,
    purpose: np.uint32,
    key: NDArray[np.uint32],
    parts: NDArray[np.int32],
) -> None:  # pragma: no cover - compiled
    ahead, num_parts = np.uint64(AHEAD), np.uint64(loads_P.shape[0])
    seen_P = np.empty_like(loads_P)
    for lane in range(lanes.shape[0] - 1):
        seen_P[:] = loads_P
        end = np.uint64(lanes[lane + 1])
        for i in range(np.uint64(lanes[lane]), end):
            if i + ahead < end:
                prefetch_end(np.uint64(src[i + ahead]), word_N, replicas, words)
                prefetch_end(np.uint64(dst[i + ahead]), word_N, replicas, words)
            if parts[i] < 0:
                continue
            u, v = np.uint64(src[i]), np.uint64(dst[i])
            home_u, home_v = np.uint64(word_N[u] & _HOME), np.uint64(word_N[v] & _HOME)
            degree_u, degree_v = word_N[u] >> PART_BITS, word_N[v] >> PART_BITS
            # The scores times both degrees, which makes them integers.
            with_u, with_v = degree_u + 2 * degree_v, 2 * degree_u + degree_v
            at_u = with_u * _has(replicas, words, u, home_u)
            at_u += with_v * _has(replicas, words, v, home_u)
            at_v = with_u * _has(replicas, words, u, home_v)
            at_v += with_v * _has(replicas, words, v, home_v)
            part = home_u if at_u >= at_v else home_v
            if seen_P[part] >= cap:
                hub = u if degree_u >= degree_v else v
                part = hash_key(hub, purpose, key[0], key[1]) % num_parts
                if seen_P[part] >= cap:
                    part = np.uint64(least_loaded(seen_P))
            seen_P[part] += scale
            parts[i] = np.int32(part)

"""Blocks of edges that are decided in parallel, with one result for any ranks and threads.

A greedy method decides an edge from the decisions before it. Here a batch of edges is decided from
the state before the batch, then the whole batch is applied to the state. A batch is split into
blocks, which are decided in parallel; within a block, edges are decided one after another, and each
sees the loads that its block has added. Batches and blocks are fixed by the options; ranks and
threads only share out the blocks.

Batches are small at first and grow with the edges seen, because early decisions weigh more: many
later edges follow the first replica of a node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.partitioner import EdgeParts, PartitionJob
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.core.thread_pool import ThreadPool
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = [
    "DEFAULT_EDGE_BLOCKS",
    "NO_CAP",
    "USE_LESS_MEMORY",
    "BlockRule",
    "EdgeBatch",
    "EdgeBlocks",
    "edge_cap",
    "least_loaded",
    "part_order",
]

NO_CAP = 1 << 60
USE_LESS_MEMORY = (  # remedy if the state of a method does not fit the memory limit
    "Use the method dbh, which needs 8 bytes per node, or edge-hash, which needs none."
)
_FIRST_BATCH = 64
_GROWTH = 16  # a batch has at most 1 / _GROWTH as many edges as came before it
_ONE_THREAD = 4096  # a batch of fewer edges is done before other threads have woken up


class EdgeBatch(NamedTuple):
    """Edges that are decided from one state.

    Attributes:
        src: Sources.
        dst: Destinations.
        loads_P: Number of edges of each part before the batch; read only.
        load_step: How much a block adds to the load of a part for each edge that it assigns: the
            number of blocks, because the other blocks are likely to decide alike.
        parts: Part of each edge, to be written; negative for edges to skip.
    """

    src: NDArray[Any]
    dst: NDArray[Any]
    loads_P: NDArray[np.int64]
    load_step: int
    parts: NDArray[np.int32]


class BlockRule(Protocol):
    """Scoring rule of a greedy method. Several threads call each method, on different edges."""

    def decide(self, batch: EdgeBatch, bounds: NDArray[np.int64]) -> None:
        """Write the part of each edge of some blocks.

        Args:
            batch: The batch.
            bounds: Where each block to decide begins, and where the last one ends.
        """

    def apply(self, src: NDArray[Any], dst: NDArray[Any], parts: NDArray[np.int32]) -> None:
        """Update the state with the parts of edges; skip edges whose part is negative."""


@dataclass(frozen=True, slots=True)
class EdgeBlocks:
    """Sizes of the batches and blocks of a stream of edges. The result depends on them.

    Attributes:
        batch_size: Most edges that are decided from one state. One edge at a time is the
            sequential method.
        num_blocks: Blocks of a batch. More ranks times threads than blocks have no use.
    """

    batch_size: int = 1 << 17
    num_blocks: int = 64

    def place(
        self,
        job: PartitionJob,
        rule: BlockRule,
        loads_P: NDArray[np.int64],
        cap: int,
        *,
        title: str,
        name: str,
        preassign: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.int32]] | None = None,
        num_preassigned: int = 0,
    ) -> Iterator[EdgeParts]:
        """Assign all edges in order; yield the parts of this rank's share of each chunk.

        Every rank decides its share of the blocks and then applies all decisions, so that all ranks
        hold the same state; collective.

        Args:
            job: Edges, ranks and threads; its random seed draws the order of the parts.
            rule: Decides edges and holds the state.
            loads_P: Number of edges already in each part; updated in place.
            cap: Most edges of a part. It is kept if P times the cap is enough for all edges.
            title: Title of the progress display.
            name: Name of the method, for messages about ranks that wait.
            preassign: From sources and destinations to -1 - part for each edge that is in a part
                already, which counts it, and 0 for the others; called on every rank, collective.
                If None, no edge is in a part.
            num_preassigned: Number of edges that the state knows, for the size of the first batch.

        Communication:
            If there are several ranks, one all-gather for each batch: 2 bytes per edge, 4 from
            2^15 parts on.
        """
        stream, resources = job.stream, job.resources
        order_P = part_order(loads_P.shape[0], job.seed)
        with (
            resources.progress.phase(title, stream.num_edges, "edges") as advance,
            ThreadPool(resources.threads) as pool,
        ):
            batches = _Batches(self, rule, loads_P, cap, name, resources, pool)
            seen = num_preassigned
            for start, stop in chunk_ranges(0, stream.num_edges):
                src, dst = stream.read(start, stop)
                parts = preassign(src, dst) if preassign else np.zeros(stop - start, np.int32)
                seen = batches.place(src, dst, parts, seen)
                first, last = resources.share(start, stop)
                mine = parts[first - start : last - start]
                advance(stop - start)
                yield first, order_P[np.maximum(mine, -1 - mine)]


DEFAULT_EDGE_BLOCKS = EdgeBlocks()


@dataclass(frozen=True, slots=True)
class _Batches:
    blocks: EdgeBlocks
    rule: BlockRule
    loads_P: NDArray[np.int64]
    cap: int
    name: str
    resources: Resources
    pool: ThreadPool

    def place(
        self, src: NDArray[Any], dst: NDArray[Any], parts: NDArray[np.int32], seen: int
    ) -> int:
        """Assign the next edges; return `seen` plus their number."""
        start, count = 0, src.shape[0]
        while start < count:
            size = min(self.blocks.batch_size, max(_FIRST_BATCH, seen // _GROWTH))
            stop = min(count, start + size)
            self._place_batch(src[start:stop], dst[start:stop], parts[start:stop])
            seen += stop - start
            start = stop
        return seen

    def _place_batch(self, src: NDArray[Any], dst: NDArray[Any], parts: NDArray[np.int32]) -> None:
        comm, count = self.resources.comm, src.shape[0]
        num_blocks = min(self.blocks.num_blocks, self.blocks.batch_size)
        bounds = np.arange(num_blocks + 1) * count // num_blocks
        first, last = self.resources.share(0, num_blocks)
        batch = EdgeBatch(src, dst, self.loads_P, num_blocks, parts)

        def decide(blocks: tuple[int, int]) -> None:
            self.rule.decide(batch, bounds[blocks[0] : blocks[1] + 1])

        def apply(edges: tuple[int, int]) -> None:
            rows = slice(*edges)
            self.rule.apply(src[rows], dst[rows], parts[rows])

        self.pool.map(decide, self._split(first, last, count))
        if comm.size > 1:
            sent_dtype = np.int16 if self.loads_P.shape[0] < 1 << 15 else np.int32
            mine = parts[bounds[first] : bounds[last]].astype(sent_dtype)
            parts[:] = np.concatenate(
                comm.all_gather(mine, stage=f"{self.name}: exchange decisions")
            )
        _add_loads(parts, self.loads_P, self.cap)
        self.pool.map(apply, self._split(0, count, count))

    def _split(self, first: int, last: int, num_edges: int) -> list[tuple[int, int]]:
        # Two ranges per thread, so that a delayed thread holds up the others less.
        threads = self.pool.threads
        ranges = 1 if num_edges < _ONE_THREAD else min(last - first, 2 * threads)
        if threads == 1 or ranges < 2:
            return [(first, last)]
        bounds = [first + (last - first) * i // ranges for i in range(ranges + 1)]
        return list(pairwise(bounds))


def edge_cap(limit: float | None, num_edges: int, num_parts: int) -> int:
    """Return the most edges that a part may get: `limit` times the mean, or the mean if greater.

    Args:
        limit: Largest part divided by the mean. If None, there is no cap.
        num_edges: Number of edges (E).
        num_parts: Number of parts (P).
    """
    if limit is None:
        return NO_CAP
    # 1.1 * 10 must be 11, not 11.000000000000002, which would round up to 12.
    exact = Fraction(limit).limit_denominator(10**9)
    return max(math.ceil(exact * num_edges / num_parts), -(-num_edges // num_parts))


def part_order(num_parts: int, seed: int) -> NDArray[np.int32]:
    """Return a random order of the parts: part i of a greedy method is part order[i] of the result.

    Shape:
        Returns (P,) int32.
    """
    drawn = hash_keys(np.arange(num_parts), seed, Purpose.PLACEMENT)
    return np.argsort(drawn, kind="stable").astype(np.int32)


@jit
def least_loaded(loads_P: NDArray[np.int64]) -> int:
    """Return the part with the fewest edges, the first on ties."""
    least = 0
    for part in range(loads_P.shape[0]):
        if loads_P[part] < loads_P[least]:
            least = part
    return least


@jit
def _add_loads(parts: NDArray[np.int32], loads_P: NDArray[np.int64], cap: int) -> None:
    # Blocks saw estimates of the loads. Only here, where all decisions are known, the cap is exact.
    for i in range(np.uint64(parts.shape[0])):
        if parts[i] < 0:
            continue
        if loads_P[np.uint64(parts[i])] >= cap:
            parts[i] = np.int32(least_loaded(loads_P))
        loads_P[np.uint64(parts[i])] += 1

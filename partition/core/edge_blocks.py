"""Greedy placement of edges by many threads and ranks, with one result for any number of them.

A greedy method decides an edge by what became of those before it. Here a block of edges is decided
against the state before the block, then all of it is applied. A block is cut into lanes; within a
lane, edges are decided one after the other, each seeing the loads that its lane has added. Blocks
and lanes are fixed by the arguments; threads and ranks only share out the lanes.

Blocks begin small and grow with the edges seen, as an early decision weighs more: it is the first
replica that many later edges follow.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any, Protocol

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.thread_pool import ThreadPool

__all__ = ["NO_CAP", "BlockRule", "EdgeBlocks", "edge_cap", "least_loaded"]

NO_CAP = 1 << 60
_FIRST_BLOCK = 64
_GROWTH = 16  # a block is at most this share of the edges before it
_ALONE = 4096  # edges that one thread decides before others have woken


def edge_cap(limit: float | None, num_edges: int, num_parts: int) -> int:
    """Return the most edges that a part may get: `limit` times the mean, or what must be.

    Args:
        limit: Largest part over the mean; None: none.
        num_edges: Edges (E).
        num_parts: Parts (P).
    """
    if limit is None:
        return NO_CAP
    # 1.1 * 10 is 11 and not 11.000000000000002, whose ceiling is 12.
    exact = Fraction(limit).limit_denominator(10**9)
    return max(math.ceil(exact * num_edges / num_parts), -(-num_edges // num_parts))


class BlockRule(Protocol):
    """How a method places edges. Several threads call both methods at once, on different rows."""

    def decide(
        self,
        src: NDArray[Any],
        dst: NDArray[Any],
        lanes: NDArray[np.int64],
        loads_P: NDArray[np.int64],
        scale: int,
        parts: NDArray[np.int32],
    ) -> None:
        """Write the part of each edge, but where `parts` is negative: that edge has one.

        Args:
            src: Sources of the whole block.
            dst: Destinations.
            lanes: Where the lanes to decide begin, and where the last ends.
            loads_P: Edges of each part before the block; not written.
            scale: By how much an edge raises the load of a part in the eyes of its lane: the number
                of lanes, as the others are likely to do the same.
            parts: Of the whole block.
        """

    def apply(self, src: NDArray[Any], dst: NDArray[Any], parts: NDArray[np.int32]) -> None:
        """Note where edges went, but for those of negative parts."""


class EdgeBlocks:
    """Places the edges that it is given, in the order in which it is given them; collective.

    Communication:
        One all-gather of 2 bytes an edge (4 from 2^15 parts on) for each block, when there are
        several ranks.

    Args:
        rule: Decides and applies.
        loads_P: Edges of each part so far; kept up to date in place.
        cap: The most edges of a part. No part exceeds it, as long as P times it is enough.
        block: The most edges decided against one state.
        lanes: Pieces of a block that are decided at the same time.
        resources: Ranks.
        pool: Threads.
        stage: What ranks are doing.
        seen: Edges that the state knows of at first, for the size of the first block.
    """

    def __init__(
        self,
        rule: BlockRule,
        loads_P: NDArray[np.int64],
        cap: int,
        *,
        block: int,
        lanes: int,
        resources: Resources,
        pool: ThreadPool,
        stage: str,
        seen: int = 0,
    ) -> None:
        self._rule, self._loads, self._cap = rule, loads_P, cap
        self._block, self._lanes = block, min(lanes, block)
        self._resources, self._comm = resources, resources.comm
        self._pool, self._stage = pool, stage
        self._sent = np.dtype(np.int16 if loads_P.shape[0] < 1 << 15 else np.int32)
        self._seen = seen

    def place(self, src: NDArray[Any], dst: NDArray[Any], parts: NDArray[np.int32]) -> None:
        """Decide the next edges, on every rank all of them.

        Args:
            src: Sources.
            dst: Destinations.
            parts: Written, but where it is -1 - p on entry: such an edge is in part p already,
                which counts it, and keeps this value.
        """
        start, count = 0, src.shape[0]
        while start < count:
            size = min(self._block, max(_FIRST_BLOCK, self._seen // _GROWTH))
            stop = min(count, start + size)
            self._place_block(src[start:stop], dst[start:stop], parts[start:stop])
            self._seen += stop - start
            start = stop

    def _place_block(self, src: NDArray[Any], dst: NDArray[Any], parts: NDArray[np.int32]) -> None:
        comm, count = self._comm, src.shape[0]
        lanes = np.arange(self._lanes + 1) * count // self._lanes
        first, last = self._resources.share(0, self._lanes)

        def decide(cut: tuple[int, int]) -> None:
            mine = lanes[cut[0] : cut[1] + 1]
            self._rule.decide(src, dst, mine, self._loads, self._lanes, parts)

        def apply(cut: tuple[int, int]) -> None:
            rows = slice(*cut)
            self._rule.apply(src[rows], dst[rows], parts[rows])

        self._pool.map(decide, self._cuts(first, last, count))
        if comm.size > 1:
            mine = parts[lanes[first] : lanes[last]].astype(self._sent)
            parts[:] = np.concatenate(comm.all_gather(mine, stage=self._stage))
        _settle(parts, self._loads, self._cap)
        self._pool.map(apply, self._cuts(0, count, count))

    def _cuts(self, first: int, last: int, edges: int) -> list[tuple[int, int]]:
        # Two pieces a thread: one that is held up does not hold up the others as long.
        pieces = 1 if edges < _ALONE else min(last - first, 2 * self._pool.threads)
        if self._pool.threads == 1 or pieces < 2:
            return [(first, last)]
        ends = [first + (last - first) * piece // pieces for piece in range(pieces + 1)]
        return list(pairwise(ends))


@numba.njit(cache=True, nogil=True, boundscheck=False)
def least_loaded(loads_P: NDArray[np.int64]) -> int:  # pragma: no cover - compiled
    """Return the first of the parts with the fewest edges."""
    least = 0
    for part in range(loads_P.shape[0]):
        if loads_P[part] < loads_P[least]:
            least = part
    return least


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _settle(
    parts: NDArray[np.int32], loads_P: NDArray[np.int64], cap: int
) -> None:  # pragma: no cover - compiled
    # Lanes saw estimates of the loads; the cap is kept here, where all decisions are known.
    for i in range(np.uint64(parts.shape[0])):
        if parts[i] < 0:
            continue
        if loads_P[np.uint64(parts[i])] >= cap:
            parts[i] = np.int32(least_loaded(loads_P))
        loads_P[np.uint64(parts[i])] += 1

"""Nodes decided in blocks of lanes: many at a time, the same on any number of ranks and threads.

A stream of nodes is cut into *blocks* of *lanes* of consecutive nodes. All lanes of a block start
from what was placed before the block; within a lane, a node sees what was decided before it there,
as it would in a sequential run. Then the nodes of a block are placed in order. Blocks grow with
what is placed, as the first nodes of a stream decide most. Lanes, not threads or ranks, are what a
result depends on: ranks and threads take whole lanes.

The order is that of node keys, from a node that the seed draws round to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.core.resources import Advance, Resources
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["LANES", "Decide", "NodeBlocks", "Place"]

Decide = Callable[[int, int, int, NDArray[np.int32]], None]
Place = Callable[[int, NDArray[np.int32]], None]


@dataclass(frozen=True, slots=True)
class NodeBlocks:
    """Which nodes are decided together; part of a method, not of its resources.

    One lane for all nodes is the sequential method.

    Attributes:
        nodes: Nodes of a lane.
        at_once: Most lanes of a block.
        growth: A block holds at most as many nodes as stand before it, over this.
    """

    nodes: int = 1024
    at_once: int = 16
    growth: int = 16

    def blocks(self, num_nodes: int, seed: int) -> Iterator[tuple[int, int]]:
        """Yield the nodes [first, last) of each block; in all, every node once."""
        start = int(hash_keys(np.zeros(1, np.int64), seed, Purpose.PLACEMENT)[0] % num_nodes)
        placed = 0
        for first, last in ((start, num_nodes), (0, start)):
            while first < last:
                lanes = min(max(placed // (self.growth * self.nodes), 1), self.at_once)
                stop = min(first + lanes * self.nodes, last)
                yield first, stop
                placed += stop - first
                first = stop

    def share(self, first: int, last: int, piece: int, pieces: int) -> tuple[int, int]:
        """Return the nodes of [first, last) that one of some pieces decides: whole lanes."""
        lanes = -(-(last - first) // self.nodes)
        low, high = (-(-lanes * i // pieces) * self.nodes for i in (piece, piece + 1))
        return min(first + low, last), min(first + high, last)

    def rows(self, num_nodes: int, seed: int, comm: Communicator) -> NDArray[np.bool_] | None:
        """Return which nodes this rank decides; None: all.

        Shape:
            Returns (N,) bool.
        """
        if comm.size == 1:
            return None
        rows_N = np.zeros(num_nodes, np.bool_)
        for block in self.blocks(num_nodes, seed):
            low, high = self.share(*block, comm.rank, comm.size)
            rows_N[low:high] = True
        return rows_N

    def run(
        self,
        num_nodes: int,
        seed: int,
        decide: Decide,
        place: Place,
        resources: Resources,
        advance: Advance,
    ) -> None:
        """Decide and place every node once.

        Args:
            num_nodes: Nodes (N).
            seed: Draws where to begin.
            decide: Takes first, last, and how many lanes are decided at once; writes a choice for
                each node of [first, last). Called from several threads, for `rows` only.
            place: Takes the choices of a block that begins at a node; the same on every rank.
            resources: Ranks and threads.
            advance: Told the nodes done.

        Communication:
            One all-gather of 4 bytes a node for each block.
        """
        comm, threads = resources.comm, resources.threads
        choice = np.empty(self.nodes * self.at_once, np.int32)
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(threads - 1)) if threads > 1 else None
            for first, last in self.blocks(num_nodes, seed):
                at_once = -(-(last - first) // self.nodes)
                low, high = self.share(first, last, comm.rank, comm.size)
                ours = choice[: high - low]
                pending = []
                for thread in range(1, threads):
                    start, stop = self.share(low, high, thread, threads)
                    if pool is not None and start < stop:
                        theirs = ours[start - low : stop - low]
                        pending.append(pool.submit(decide, start, stop, at_once, theirs))
                start, stop = self.share(low, high, 0, threads)
                decide(start, stop, at_once, ours[: stop - start])
                for each in pending:
                    each.result()
                if comm.size > 1:
                    ours = np.concatenate(comm.all_gather(ours, stage="place nodes"))
                place(first, ours)
                advance(last - first)


LANES = NodeBlocks()

"""Blocks of nodes that are decided in parallel, with one result for any ranks and threads.

A greedy method decides a node from the decisions before it. Here the stream of nodes is split into
blocks of consecutive nodes. Within a block, nodes are decided one after another, and each sees the
decisions of its block so far. A batch of blocks is decided in parallel: each block starts from the
assignments before the batch. Then the nodes of the batch are assigned in order.

Batches are small at first and grow, because the first nodes of a stream decide most. The result
depends on the sizes of blocks and batches, not on ranks and threads, which share out whole blocks.

Nodes come in the order of their keys, from a node that the seed draws, and wrap around.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.core.resources import Advance, Resources
from graphtheta.partition.core.thread_pool import ThreadPool
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["DEFAULT_NODE_BLOCKS", "Apply", "Decide", "NodeBlocks"]

Decide = Callable[[int, int, int, NDArray[np.int32]], None]
Apply = Callable[[int, NDArray[np.int32]], None]


@dataclass(frozen=True, slots=True)
class NodeBlocks:
    """Sizes of the blocks and batches of a stream of nodes.

    One block of all nodes is the sequential method.

    Attributes:
        block_size: Nodes of a block.
        max_blocks: Most blocks of a batch.
        growth: A batch has at most 1 / `growth` as many nodes as were assigned before it, but at
            least one block.
    """

    block_size: int = 1024
    max_blocks: int = 16
    growth: int = 16

    def batches(self, num_nodes: int, seed: int) -> Iterator[tuple[int, int]]:
        """Yield the nodes [first, last) of each batch; together they cover every node once."""
        start = int(hash_keys(np.zeros(1, np.int64), seed, Purpose.PLACEMENT)[0] % num_nodes)
        assigned = 0
        for first, last in ((start, num_nodes), (0, start)):
            while first < last:
                blocks = min(max(assigned // (self.growth * self.block_size), 1), self.max_blocks)
                stop = min(first + blocks * self.block_size, last)
                yield first, stop
                assigned += stop - first
                first = stop

    def share(self, first: int, last: int, index: int, count: int) -> tuple[int, int]:
        """Split the blocks of nodes [first, last) into `count` shares; return one share's nodes."""
        blocks = self._num_blocks(first, last)
        low, high = (-(-blocks * i // count) * self.block_size for i in (index, index + 1))
        return min(first + low, last), min(first + high, last)

    def nodes_of_rank(
        self, num_nodes: int, seed: int, comm: Communicator
    ) -> NDArray[np.bool_] | None:
        """Return a mask of the nodes that this rank decides, or None if it decides all.

        Shape:
            Returns (N,) bool.
        """
        if comm.size == 1:
            return None
        mask_N = np.zeros(num_nodes, np.bool_)
        for batch in self.batches(num_nodes, seed):
            low, high = self.share(*batch, comm.rank, comm.size)
            mask_N[low:high] = True
        return mask_N

    def run(
        self,
        num_nodes: int,
        seed: int,
        decide: Decide,
        apply: Apply,
        resources: Resources,
        advance: Advance,
    ) -> None:
        """Decide and assign every node once.

        Args:
            num_nodes: Number of nodes (N).
            seed: Random seed, which draws the first node.
            decide: Called with first, last, the number of blocks of the batch, and an array to
                write the decisions for nodes [first, last) to. Several threads call it, for nodes
                of `nodes_of_rank` only.
            apply: Called with the first node of a batch and the decisions for the batch, which are
                the same on every rank.
            resources: Ranks and threads.
            advance: Called with the number of nodes just assigned.

        Communication:
            One all-gather of 4 bytes per node for each batch.
        """
        comm = resources.comm
        decisions = np.empty(self.block_size * self.max_blocks, np.int32)
        with ThreadPool(resources.threads) as pool:
            for first, last in self.batches(num_nodes, seed):
                low, high = self.share(first, last, comm.rank, comm.size)
                mine = decisions[: high - low]
                self._decide(low, high, self._num_blocks(first, last), mine, decide, pool)
                if comm.size > 1:
                    mine = np.concatenate(comm.all_gather(mine, stage="place nodes"))
                apply(first, mine)
                advance(last - first)

    def _decide(
        self,
        low: int,
        high: int,
        blocks: int,
        decisions: NDArray[np.int32],
        decide: Decide,
        pool: ThreadPool,
    ) -> None:
        def decide_share(nodes: tuple[int, int]) -> None:
            decide(*nodes, blocks, decisions[nodes[0] - low : nodes[1] - low])

        shares = (self.share(low, high, thread, pool.threads) for thread in range(pool.threads))
        pool.map(decide_share, [(start, stop) for start, stop in shares if start < stop])

    def _num_blocks(self, first: int, last: int) -> int:
        return -(-(last - first) // self.block_size)


DEFAULT_NODE_BLOCKS = NodeBlocks()

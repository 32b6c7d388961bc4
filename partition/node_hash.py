"""Edge-cut by a hash of the node: balanced in nodes, blind to the topology, needs no memory."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.blocks import Blocks
from graphtheta.partition.partitioner import part_of_hash
from graphtheta.partition.stream import EdgeStream
from graphtheta.random import Purpose, hash_keys

__all__ = ["NodeHash"]


class NodeHash:
    """Put each node into a part drawn at random.

    Communication:
        None.

    Source:
        Malewicz et al., "Pregel", SIGMOD 2010 (the default assignment, hash(id) mod P).
    """

    name = "node-hash"
    cut: Literal["edge"] = "edge"

    def __call__(
        self, stream: EdgeStream, num_parts: int, *, seed: int, comm: Communicator
    ) -> NDArray[np.int32]:
        """Return the part of each node of this rank's block."""
        keys = Blocks(stream.num_nodes, comm).keys()
        return part_of_hash(hash_keys(keys, seed, Purpose.PLACEMENT), num_parts)

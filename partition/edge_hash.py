"""Vertex-cut by a hash of the edge: balanced in edges, the worst in copies of nodes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.partitioner import part_of_hash
from graphtheta.partition.stream import EdgeStream
from graphtheta.random import Purpose, hash_keys

__all__ = ["EdgeHash"]


class EdgeHash:
    """Put each edge into a part drawn at random; parallel edges stay together.

    Communication:
        None.

    Source:
        Gonzalez et al., "PowerGraph", OSDI 2012, section 5.1 (random vertex-cut).
    """

    name = "edge-hash"
    cut: Literal["vertex"] = "vertex"

    def __call__(
        self, stream: EdgeStream, num_parts: int, *, seed: int, comm: Communicator
    ) -> NDArray[np.int32]:
        """Return the part of each edge of this rank."""
        parts = [np.empty(0, np.int32)]
        for src, dst in stream:
            src_hash = hash_keys(src, seed, Purpose.PLACEMENT)
            pair = (src_hash + dst.astype(np.uint64)).view(np.int64)
            parts.append(part_of_hash(hash_keys(pair, seed, Purpose.PLACEMENT), num_parts))
        return np.concatenate(parts)

"""Edge-cut by KaMinPar: multilevel, balanced, few edges cut; the topology on one rank."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.stream import EdgeStream
from graphtheta.partition.topology import Topology, place_on_rank_zero

__all__ = ["KaMinPar"]

_IMBALANCE = 0.03  # KaMinPar's default: the largest part over the mean, minus one


class KaMinPar:
    """Cut few edges with parts of nearly equal size (3 %), by deep multilevel partitioning.

    Runs on one thread of rank 0, which makes it repeatable for a seed.

    Communication:
        16 bytes an edge to rank 0, 4 bytes a node back.

    Source:
        Gottesbüren, Heuer, Sanders, Schulz, Seemaier, "Deep Multilevel Graph Partitioning", ESA
        2021.
    """

    name = "kaminpar"
    cut: Literal["edge"] = "edge"

    def __call__(
        self, stream: EdgeStream, num_parts: int, *, seed: int, comm: Communicator
    ) -> NDArray[np.int32]:
        """Return the part of each node of this rank's block."""
        return place_on_rank_zero(stream, lambda graph: _place(graph, num_parts, seed), comm)


def _place(graph: Topology, num_parts: int, seed: int) -> NDArray[np.int32]:
    import kaminpar

    with tempfile.TemporaryDirectory(prefix="graphtheta-kaminpar-") as folder:
        path = Path(folder) / "topology.parhip"
        _write_parhip(graph, path)
        loaded = kaminpar.load_graph(str(path), kaminpar.GraphFileFormat.PARHIP)
    kaminpar.reseed(seed & 0x7FFFFFFF)
    solver = kaminpar.KaMinPar(1, kaminpar.default_context())
    return np.array(solver.compute_partition(loaded, num_parts, _IMBALANCE), np.int32)


def _write_parhip(graph: Topology, path: Path) -> None:
    # KaMinPar takes graphs from files only. ParHIP's binary format: version, nodes, arcs; byte
    # offset of each node's neighbours in the file; neighbours; all 64-bit (version 3: no weights).
    num_nodes, num_arcs = graph.indptr.shape[0] - 1, graph.neighbours.shape[0]
    with path.open("wb") as file:
        np.array([3, num_nodes, num_arcs], np.int64).tofile(file)
        (8 * (3 + num_nodes + 1) + 8 * graph.indptr).tofile(file)
        graph.neighbours.tofile(file)

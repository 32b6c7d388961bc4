"""File of one int32 for each node of the graph, in the order of node keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.ooc.edge_file import read_array

__all__ = ["NodeFile"]


class NodeFile:
    """File of one int32 for each node: ranks write disjoint ranges, then read any range.

    Args:
        folder: An existing folder.
        name: Name of the file.
        num_nodes: Number of nodes of the graph (N).
    """

    def __init__(self, folder: Path, name: str, num_nodes: int) -> None:
        self._path, self._num_nodes = folder / name, num_nodes

    def create(self, comm: Communicator) -> None:
        """Create the file; collective."""
        if comm.rank == 0:
            with self._path.open("wb") as file:
                file.truncate(4 * self._num_nodes)
        comm.barrier(stage=f"create {self._path.name}")

    def write(self, start: int, values: NDArray[np.int32]) -> None:
        """Write the values of consecutive nodes from node key `start` on."""
        with self._path.open("r+b") as file:
            file.seek(4 * start)
            np.ascontiguousarray(values, np.int32).tofile(file)

    def read(self, start: int, stop: int) -> NDArray[np.int32]:
        """Return the values of nodes [start, stop)."""
        return read_array(self._path, np.dtype(np.int32), start, stop)

    def at(self, keys: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the values of selected nodes.

        Shape:
            keys: (R,) node keys, ascending. Returns (R,) int32.
        """
        if not len(keys):
            return np.empty(0, np.int32)
        values: NDArray[np.int32] = np.asarray(np.memmap(self._path, np.int32, "r"))
        return values.take(keys)  # releases the GIL, unlike values[keys]

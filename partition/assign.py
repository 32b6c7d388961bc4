"""The parts that a partitioner chose, on disk: of every node, or of every edge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.keyfile import read_array
from graphtheta.partition.partitioner import Balance, Partitioner
from graphtheta.partition.resources import Resources
from graphtheta.partition.stream import EdgeStream

__all__ = ["ASSIGNMENT", "Assignment", "assign"]

ASSIGNMENT = "assignment"  # in an edge-cut a `NodeFile`


def assign(
    partitioner: Partitioner,
    stream: EdgeStream,
    num_parts: int,
    folder: Path,
    *,
    seed: int,
    balance: Balance,
    resources: Resources,
) -> None:
    """Run a partitioner and keep what it says; collective.

    Raises:
        PartitionError: If its state does not fit the memory limit, or it cannot keep the balance.
    """
    refused = [what for what in balance.asked() if what not in partitioner.balances]
    if refused:
        raise PartitionError(
            f"partition: expected a method that can balance {' and '.join(refused)}, got "
            f"{partitioner.name}. Leave the limit out, or choose another method."
        )
    comm, path = resources.comm, folder / ASSIGNMENT
    if partitioner.cut == "edge":
        part_N = partitioner(stream, num_parts, seed=seed, balance=balance, resources=resources)
        if comm.rank == 0:
            part_N.tofile(path)
    else:
        kind = _type(num_parts)
        if comm.rank == 0:
            with path.open("wb") as file:
                file.truncate(stream.num_edges * kind.itemsize)
        comm.barrier(stage="assign: create")
        handle = os.open(path, os.O_WRONLY)
        try:
            for first, parts in partitioner(
                stream, num_parts, seed=seed, balance=balance, resources=resources
            ):
                _write(handle, parts.astype(kind), first * kind.itemsize)
        finally:
            os.close(handle)
    comm.barrier(stage="assign: done")


class Assignment:
    """Where nodes or edges go.

    Args:
        folder: Where `assign` wrote.
        partitioner: What assigned.
        num_parts: Parts (P).
        num_nodes: Nodes (N).
    """

    def __init__(self, folder: Path, partitioner: Partitioner, num_parts: int, num_nodes: int):
        self._path, self._type = folder / ASSIGNMENT, _type(num_parts)
        self._edge_cut, self._num_nodes = partitioner.cut == "edge", num_nodes
        self._of_nodes: NDArray[np.int32] | None = None

    def of_nodes(self) -> NDArray[np.int32] | None:
        """Return the part of each node, (N,); None in a vertex-cut. Read when first asked for."""
        if self._edge_cut and self._of_nodes is None:
            self._of_nodes = read_array(self._path, np.dtype(np.int32), 0, self._num_nodes)
        return self._of_nodes

    def of_edges(self, start: int, stop: int, dst: NDArray[Any]) -> NDArray[Any]:
        """Return the parts of edges [start, stop), whose destinations are `dst`."""
        of_nodes = self.of_nodes()
        if of_nodes is not None:
            parts: NDArray[np.int32] = of_nodes[dst]
            return parts
        return read_array(self._path, self._type, start, stop)

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def _type(num_parts: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if num_parts <= 1 << 16 else np.int32)


def _write(handle: int, array: NDArray[Any], offset: int) -> None:
    view = np.ascontiguousarray(array).view(np.uint8).data
    done = 0
    while done < len(view):
        done += os.pwrite(handle, view[done:], offset + done)

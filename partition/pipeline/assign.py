"""What a partitioner chose, on disk: parts of nodes or edges, or what its rule has to know."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.core.edge_rule import EdgeRule
from graphtheta.partition.core.partitioner import Balance, Partitioner
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream
from graphtheta.partition.ooc.edge_file import read_array, write_from

__all__ = ["ASSIGNMENT", "Assignment", "PartsOf", "assign"]

ASSIGNMENT = "assignment"  # in an edge-cut a `NodeFile`

PartsOf = Callable[[int, int, NDArray[Any], NDArray[Any]], NDArray[Any]]


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
    refused = [what for what in balance.limits() if what not in partitioner.balances]
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
    elif isinstance(partitioner, EdgeRule):
        code_N = partitioner.node_codes(stream, num_parts, seed=seed, resources=resources)
        if comm.rank == 0:
            code_N.tofile(path)
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
                write_from(parts.astype(kind), handle, first)
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
        seed: As given to `assign`.
    """

    def __init__(
        self, folder: Path, partitioner: Partitioner, num_parts: int, num_nodes: int, *, seed: int
    ) -> None:
        self._path, self._partitioner, self._seed = folder / ASSIGNMENT, partitioner, seed
        self._num_parts, self._num_nodes = num_parts, num_nodes
        self._of_nodes: NDArray[np.int32] | None = None

    def of_nodes(self) -> NDArray[np.int32] | None:
        """Return the part of each node, (N,); None in a vertex-cut. Read when first asked for."""
        if self._partitioner.cut == "edge" and self._of_nodes is None:
            self._of_nodes = read_array(self._path, np.dtype(np.int32), 0, self._num_nodes)
        return self._of_nodes

    def of_edges(self) -> PartsOf:
        """Return what gives the parts of edges [start, stop), whose ends are src and dst.

        It may be called by several threads, and holds a word a node at most.
        """
        rule, kind, of_nodes = self._partitioner, _type(self._num_parts), self.of_nodes()
        if of_nodes is not None:
            part_N = of_nodes
            return lambda start, stop, src, dst: part_N.take(dst)
        if isinstance(rule, EdgeRule):
            code_N = np.fromfile(self._path, np.int64)
            place = partial(rule.place, code_N=code_N, num_parts=self._num_parts, seed=self._seed)
            return lambda start, stop, src, dst: place(src, dst)
        return lambda start, stop, src, dst: read_array(self._path, kind, start, stop)

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def _type(num_parts: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if num_parts <= 1 << 16 else np.int32)

"""Run a partitioner and store its assignment of nodes or edges to parts in a file."""

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
from graphtheta.partition.core.partitioner import Partitioner, PartitionJob
from graphtheta.partition.methods.registry import PARTITIONERS
from graphtheta.partition.ooc.edge_file import read_array, write_from

__all__ = ["ASSIGNMENT", "Assignment", "PartOfEdges", "assign"]

ASSIGNMENT = "assignment"  # the file; for an edge-cut, a `NodeFile`

# (start, stop, src, dst) -> the parts of edges [start, stop), whose node keys are src and dst.
PartOfEdges = Callable[[int, int, NDArray[Any], NDArray[Any]], NDArray[Any]]


def assign(partitioner: Partitioner, job: PartitionJob, folder: Path) -> None:
    """Run a partitioner and write its assignment into a folder; collective.

    The file holds the part of each node (edge-cut), the part of each edge (vertex-cut), or the
    state of an `EdgeRule`, from which the parts of edges are computed when they are read.

    Raises:
        PartitionError: If the partitioner does not support a requested balance, or its state
            exceeds the memory limit.
    """
    refused = [what for what in job.balance.limits() if what not in partitioner.balances]
    if refused:
        able = [name for name, of in PARTITIONERS.items() if of.balances.issuperset(refused)]
        raise PartitionError(
            f"partition: expected a method that can balance {' and '.join(refused)}, got "
            f"{partitioner.name}. Omit the limit, or choose one of {', '.join(able)}."
        )
    stream, num_parts, path = job.stream, job.num_parts, folder / ASSIGNMENT
    comm = job.resources.comm
    if partitioner.cut == "edge":
        part_N = partitioner(job)
        if comm.rank == 0:
            part_N.tofile(path)
    elif isinstance(partitioner, EdgeRule):
        code_N = partitioner.node_codes(job)
        if comm.rank == 0:
            code_N.tofile(path)
    else:
        dtype = _part_dtype(num_parts)
        if comm.rank == 0:
            with path.open("wb") as file:
                file.truncate(stream.num_edges * dtype.itemsize)
        comm.barrier(stage="assign: create")
        handle = os.open(path, os.O_WRONLY)
        try:
            for first, parts in partitioner(job):
                write_from(parts.astype(dtype), handle, first)
        finally:
            os.close(handle)
    comm.barrier(stage="assign: done")


class Assignment:
    """Assignment of nodes or edges to parts, read from the file that `assign` wrote.

    Args:
        folder: Folder of the file.
        partitioner: The partitioner that made the assignment.
        num_parts: Number of parts (P).
        num_nodes: Number of nodes (N).
        seed: Seed that was passed to `assign`.
    """

    def __init__(
        self, folder: Path, partitioner: Partitioner, num_parts: int, num_nodes: int, *, seed: int
    ) -> None:
        self._path, self._partitioner, self._seed = folder / ASSIGNMENT, partitioner, seed
        self._num_parts, self._num_nodes = num_parts, num_nodes
        self._part_of_nodes: NDArray[np.int32] | None = None

    def part_of_nodes(self) -> NDArray[np.int32] | None:
        """Return the part of each node, (N,), or None for a vertex-cut. Reads the file once."""
        if self._partitioner.cut == "edge" and self._part_of_nodes is None:
            self._part_of_nodes = read_array(self._path, np.dtype(np.int32), 0, self._num_nodes)
        return self._part_of_nodes

    def part_of_edges(self) -> PartOfEdges:
        """Return a function of (start, stop, src, dst) that returns the parts of these edges.

        Threads may call it in parallel. It holds at most one int64 for each node.
        """
        rule, dtype, part_N = self._partitioner, _part_dtype(self._num_parts), self.part_of_nodes()
        if part_N is not None:
            nodes = part_N
            return lambda start, stop, src, dst: nodes.take(dst)
        if isinstance(rule, EdgeRule):
            code_N = np.fromfile(self._path, np.int64)
            place = partial(rule.place, code_N=code_N, num_parts=self._num_parts, seed=self._seed)
            return lambda start, stop, src, dst: place((src, dst))
        return lambda start, stop, src, dst: read_array(self._path, dtype, start, stop)

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def _part_dtype(num_parts: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if num_parts <= 1 << 16 else np.int32)

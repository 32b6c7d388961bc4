"""Run a partitioner and store its assignment of nodes or edges to parts in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import PartitionError
from graphtheta.partition.core.edge_rule import EdgeRule
from graphtheta.partition.core.partitioner import EdgeParts, Partitioner, PartitionJob
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream
from graphtheta.partition.methods.registry import PARTITIONERS
from graphtheta.partition.ooc.edge_file import read_array, write_from
from graphtheta.partition.pipeline.plan import Plan
from graphtheta.partition.placement.cover import place_by_cover

__all__ = ["ASSIGNMENT", "Assignment", "PartOfEdges", "assign", "place_edges"]

ASSIGNMENT = "assignment"  # the file; of a `NodePartitioner`, a `NodeFile`
_PLACED = "placed-edges"  # the file of the parts of edges that `place_edges` writes

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
        _write_parts(partitioner(job), path, stream.num_edges, num_parts, comm)
    comm.barrier(stage="assign: done")


def place_edges(
    assignment: Assignment, stream: EdgeStream, folder: Path, resources: Resources
) -> None:
    """Place the edges of an assignment of nodes, and write their parts; collective.

    Raises:
        PartitionError: If the memory limit is too low.
    """
    plan, part_N = assignment.plan, assignment.part_of_nodes()
    assert part_N is not None, "the plan has a partitioner of nodes"
    placed = place_by_cover(
        stream, part_N, plan.num_parts, folder, resources, merge_weight=plan.merge_weight
    )
    _write_parts(placed, folder / _PLACED, stream.num_edges, plan.num_parts, resources.comm)
    resources.comm.barrier(stage="place: done")


def _write_parts(
    placed: Iterator[EdgeParts], path: Path, num_edges: int, num_parts: int, comm: Communicator
) -> None:
    dtype = _part_dtype(num_parts)
    if comm.rank == 0:
        with path.open("wb") as file:
            file.truncate(num_edges * dtype.itemsize)
    comm.barrier(stage="assign: create")
    handle = os.open(path, os.O_WRONLY)
    try:
        for first, parts in placed:
            write_from(parts.astype(dtype), handle, first)
    finally:
        os.close(handle)


class Assignment:
    """Assignment of nodes or edges to parts, read from the files of `assign` and `place_edges`.

    Args:
        folder: Folder of the files.
        plan: Options of the partitioning.
        num_nodes: Number of nodes (N).
    """

    def __init__(self, folder: Path, plan: Plan, num_nodes: int) -> None:
        self._path, self._placed = folder / ASSIGNMENT, folder / _PLACED
        self.plan, self._num_nodes = plan, num_nodes
        self._part_of_nodes: NDArray[np.int32] | None = None

    def part_of_nodes(self) -> NDArray[np.int32] | None:
        """Return the part of each node, (N,), or None if edges are assigned instead.

        It reads the file once.
        """
        if self.plan.partitioner.cut == "edge" and self._part_of_nodes is None:
            self._part_of_nodes = read_array(self._path, np.dtype(np.int32), 0, self._num_nodes)
        return self._part_of_nodes

    def part_of_edges(self) -> PartOfEdges:
        """Return a function of (start, stop, src, dst) that returns the parts of these edges.

        Threads may call it in parallel. It holds at most one int64 for each node.
        """
        plan, rule = self.plan, self.plan.partitioner
        dtype, part_N = _part_dtype(plan.num_parts), self.part_of_nodes()
        if plan.covers:
            return lambda start, stop, src, dst: read_array(self._placed, dtype, start, stop)
        if part_N is not None:
            nodes = part_N
            return lambda start, stop, src, dst: nodes.take(dst)
        if isinstance(rule, EdgeRule):
            code_N = np.fromfile(self._path, np.int64)
            place = partial(rule.place, code_N=code_N, num_parts=plan.num_parts, seed=plan.seed)
            return lambda start, stop, src, dst: place((src, dst))
        return lambda start, stop, src, dst: read_array(self._path, dtype, start, stop)

    def remove(self) -> None:
        """Delete the files."""
        self._path.unlink(missing_ok=True)
        self._placed.unlink(missing_ok=True)


def _part_dtype(num_parts: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if num_parts <= 1 << 16 else np.int32)

"""Partitioning without a store: how good methods are, and their assignments as tables."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphtheta.data.schema import whole
from graphtheta.data.source import GraphSource, TopologySource
from graphtheta.errors import PartitionError
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.ooc.checkpointed_phases import CheckpointedPhases
from graphtheta.partition.ooc.edge_file import EdgeFile
from graphtheta.partition.ooc.node_file import NodeFile
from graphtheta.partition.pipeline.assign import ASSIGNMENT, Assignment
from graphtheta.partition.pipeline.collect_ids import ids_in_file
from graphtheta.partition.pipeline.make_store import temporary_folder
from graphtheta.partition.pipeline.masters import OWNERS
from graphtheta.partition.pipeline.pipeline import Pipeline, Plan, named_partitioner
from graphtheta.partition.store.quality import PartCounts
from graphtheta.runtime.atomic import atomic_folder, refuse_occupied

__all__ = ["Assessment", "assess", "compare", "write_assignment"]


@dataclass(frozen=True, slots=True)
class Assessment:
    """How a method did.

    Attributes:
        method: Key in `PARTITIONERS`.
        counts: Of the parts; None if the method was refused.
        seconds: That the method itself took; of a rule, without placing edges while they move.
        refusal: Why it was refused; empty otherwise.
    """

    method: str
    counts: PartCounts | None
    seconds: float
    refusal: str = ""


def assess(source: GraphSource, plan: Plan, resources: Resources | None = None) -> PartCounts:
    """Return what each part of a store would hold, without writing it; collective.

    Columns are not read. Arguments and errors are those of `make_store`.
    """
    (only,) = compare(source, plan, [plan.method], resources)
    if only.counts is None:
        raise PartitionError(only.refusal)
    return only.counts


def compare(
    source: GraphSource, plan: Plan, methods: Sequence[str], resources: Resources | None = None
) -> Iterator[Assessment]:
    """Yield how good each of some methods is, side by side, without writing stores; collective.

    Edges are read once. A method that is refused, for its memory say, does not stop the others.

    Args:
        source: The graph.
        plan: What is asked for, but for the method.
        methods: Keys of `PARTITIONERS`.
        resources: Ranks, threads and memory.

    Raises:
        As `make_store`.
    """
    resources = resources or Resources()
    plans = [dataclasses.replace(plan, method=method) for method in methods]
    topology = TopologySource(source) if plan.balance.train is None else source
    with temporary_folder(resources.comm) as folder:
        with CheckpointedPhases(folder / "edges", {}, resources.comm) as room:
            edges = Pipeline(topology, plan, room, resources).prepare()
        for number, each in enumerate(plans):
            with CheckpointedPhases(folder / str(number), {}, resources.comm) as room:
                yield _assess(Pipeline(topology, each, room, resources), edges, each.method)


def write_assignment(
    source: GraphSource, path: Path | str, plan: Plan, resources: Resources | None = None
) -> None:
    """Write only where nodes and edges go, as Parquet; collective.

    The folder `path` gets `nodes.parquet` (`id`, `part`: int32) in the order of node keys, and in a
    vertex-cut `edges.parquet` (`edge_key`: int64, `part`: int32) in the order of edge keys; in an
    edge-cut an edge goes where its destination goes.

    Raises:
        As `make_store`.
    """
    resources, path = resources or Resources(), Path(path)
    comm = resources.comm
    refuse_occupied(path)
    topology = TopologySource(source) if plan.balance.train is None else source
    with (
        temporary_folder(comm) as folder,
        CheckpointedPhases(folder, {}, comm) as room,
    ):
        building = Pipeline(topology, plan, room, resources)
        edges = building.prepare()
        assignment = building.assign(edges)
        vertex_cut = named_partitioner(plan.method).cut == "vertex"
        if vertex_cut:
            building.count(edges, assignment)  # which draws the masters
        if comm.rank == 0:
            with atomic_folder(path) as beside:
                owners = OWNERS if vertex_cut else ASSIGNMENT  # both a part for each node
                of_nodes = NodeFile(folder, owners, edges.num_nodes)
                _write_nodes(source, folder, of_nodes, beside / "nodes.parquet")
                if vertex_cut:
                    _write_edges(edges, assignment, beside / "edges.parquet")
        comm.barrier(stage="write assignment")


def _assess(building: Pipeline, edges: EdgeFile, method: str) -> Assessment:
    start = time.perf_counter()
    try:
        assignment = building.assign(edges)
        seconds = time.perf_counter() - start
        counts, _ = building.count(edges, assignment)
        return Assessment(method, counts, seconds)
    except PartitionError as error:  # the same on every rank: it depends on sizes alone
        return Assessment(method, None, time.perf_counter() - start, str(error))


def _write_nodes(source: GraphSource, folder: Path, owners: NodeFile, path: Path) -> None:
    if source.num_nodes is None:
        ids = ids_in_file(folder)
        kind = source.edge_schema.field("src").type
    else:
        chunks = source.node_chunks(0, source.num_nodes, ids_only=True)
        ids = (whole(chunk["id"]) for chunk in chunks)
        kind = source.node_schema.field("id").type

    def tables() -> Iterator[pa.Table]:
        first = 0
        for some in ids:
            yield pa.table({"id": some, "part": owners.read(first, first + len(some))})
            first += len(some)

    _write(tables(), pa.schema([("id", kind), ("part", pa.int32())]), path)


def _write_edges(edges: EdgeFile, assignment: Assignment, path: Path) -> None:
    of_edges = assignment.of_edges()
    tables = (
        pa.table(
            {
                "edge_key": edges.keys(first, last),
                "part": of_edges(first, last, *edges.read(first, last)).astype(np.int32),
            }
        )
        for first, last in chunk_ranges(0, edges.num_edges)
    )
    _write(tables, pa.schema([("edge_key", pa.int64()), ("part", pa.int32())]), path)


def _write(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)

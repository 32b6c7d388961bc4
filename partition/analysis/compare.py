"""Comparison of partitioning methods without writing a store, and assignments as Parquet files."""

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
from graphtheta.data.types import NodeTable
from graphtheta.errors import PartitionError
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.ooc.checkpointed_phases import CheckpointedPhases
from graphtheta.partition.ooc.edge_file import EdgeFile
from graphtheta.partition.ooc.node_file import NodeFile
from graphtheta.partition.ooc.shared_folder import shared_folder
from graphtheta.partition.pipeline.assign import ASSIGNMENT, Assignment
from graphtheta.partition.pipeline.make_store import temporary_folder
from graphtheta.partition.pipeline.masters import OWNERS
from graphtheta.partition.pipeline.pipeline import Pipeline
from graphtheta.partition.pipeline.plan import Plan
from graphtheta.partition.store.quality import PartCounts

__all__ = ["Assessment", "assess", "compare", "write_assignment"]


@dataclass(frozen=True, slots=True)
class Assessment:
    """Result of one method in a comparison.

    Attributes:
        method: Key in `PARTITIONERS`.
        placement: Placement of the edges, as in `Plan`.
        counts: Sizes of the parts, or None if the method was refused.
        seconds: Time of the method. For an `EdgeRule`, without the assignment of edges, which
            happens later.
        refusal: Why the method was refused, or an empty string.
    """

    method: str
    counts: PartCounts | None
    seconds: float
    refusal: str = ""
    placement: str = "method"


def assess(source: GraphSource, plan: Plan, resources: Resources | None = None) -> PartCounts:
    """Return the sizes of the parts of a store without writing it; collective.

    Feature, label and split columns are not read. Arguments and errors are those of `make_store`.
    """
    (only,) = _compare(source, [plan], resources or Resources())
    if only.counts is None:
        raise PartitionError(only.refusal)
    return only.counts


def compare(
    source: GraphSource, plan: Plan, methods: Sequence[str], resources: Resources | None = None
) -> Iterator[Assessment]:
    """Yield the sizes of the parts for each of some methods, without writing stores; collective.

    The edge table is read once. If a method is refused, for its memory for example, the comparison
    goes on with the next method.

    Args:
        source: The graph.
        plan: Options of the partitioning; `method` has no effect. With cover placement, each
            partitioner of nodes is assessed without it, too.
        methods: Keys of `PARTITIONERS`.
        resources: Ranks, threads and memory.

    Raises:
        GraphThetaError: As `make_store` does.
    """
    plans = []
    for method in methods:
        plans.append(dataclasses.replace(plan, method=method, placement="method"))
        if plan.covers and plans[-1].cut == "edge":
            plans.append(dataclasses.replace(plan, method=method))
    yield from _compare(source, plans, resources or Resources())


def _compare(
    source: GraphSource, plans: Sequence[Plan], resources: Resources
) -> Iterator[Assessment]:
    topology, plan = _topology(source, plans[0]), plans[0]
    with temporary_folder(resources.comm) as folder:
        with CheckpointedPhases(folder / "edges", {}, resources.comm) as phases:
            edges = Pipeline(topology, plan, phases, resources).prepare()
        for number, each in enumerate(plans):
            with CheckpointedPhases(folder / str(number), {}, resources.comm) as phases:
                yield _assess(Pipeline(topology, each, phases, resources), edges, each)


def write_assignment(
    source: GraphSource, path: Path | str, plan: Plan, resources: Resources | None = None
) -> None:
    """Write the part of every node and edge as Parquet files, without a store; collective.

    The folder `path` gets `nodes.parquet` (`id`, `part`: int32) in the order of node keys, or
    `nodes-<type>.parquet` for each of several node types. For a vertex-cut it also gets
    `edges.parquet` (`edge_key`: int64, `part`: int32) in the order of edge keys; in an edge-cut, an
    edge is in the part of its destination.

    Raises:
        GraphThetaError: As `make_store` does.
    """
    resources, path = resources or Resources(), Path(path)
    comm = resources.comm
    topology = _topology(source, plan)
    with (
        shared_folder(path, comm, "an assignment") as unfinished,
        CheckpointedPhases(unfinished.with_name("scratch"), {}, comm) as phases,
    ):
        pipeline = Pipeline(topology, plan, phases, resources)
        edges = pipeline.prepare()
        assignment = pipeline.assign(edges)
        vertex_cut = plan.cut == "vertex"
        if vertex_cut:
            pipeline.count(edges, assignment)  # also draws the masters
        if comm.rank == 0:
            name = OWNERS if vertex_cut else ASSIGNMENT  # both hold the part of each node
            owners = NodeFile(phases.folder, name, edges.num_nodes)
            for nodes in pipeline.node_tables:
                of_type = "" if len(pipeline.node_tables) == 1 else f"-{nodes.name}"
                _write_nodes(nodes, owners, unfinished / f"nodes{of_type}.parquet")
            if vertex_cut:
                _write_edges(edges, assignment, unfinished / "edges.parquet")


def _topology(source: GraphSource, plan: Plan) -> GraphSource:
    """Return the source without columns, unless they decide how edges are kept or balanced."""
    typed = not plan.repeats and any("type" in t.schema.names for t in source.edge_tables)
    return source if typed or plan.balance.train is not None else TopologySource(source)


def _assess(pipeline: Pipeline, edges: EdgeFile, plan: Plan) -> Assessment:
    start = time.perf_counter()
    try:
        assignment = pipeline.assign(edges)
        seconds = time.perf_counter() - start
        counts, _ = pipeline.count(edges, assignment)
        return Assessment(plan.method, counts, seconds, placement=plan.placement)
    except PartitionError as error:  # the same on every rank: it depends only on sizes
        seconds = time.perf_counter() - start
        return Assessment(plan.method, None, seconds, str(error), plan.placement)


def _write_nodes(nodes: NodeTable, owners: NodeFile, path: Path) -> None:
    def tables() -> Iterator[pa.Table]:
        first = nodes.first_key
        for chunk in nodes.table.chunks(0, nodes.num_rows, ["id"]):
            ids = whole(chunk["id"])
            yield pa.table({"id": ids, "part": owners.read(first, first + len(ids))})
            first += len(ids)

    schema = pa.schema([("id", nodes.schema.field("id").type), ("part", pa.int32())])
    _write(tables(), schema, path)


def _write_edges(edges: EdgeFile, assignment: Assignment, path: Path) -> None:
    parts_of = assignment.part_of_edges()
    tables = (
        pa.table(
            {
                "edge_key": edges.keys(first, last),
                "part": parts_of(first, last, *edges.read(first, last)).astype(np.int32),
            }
        )
        for first, last in chunk_ranges(0, edges.num_edges)
    )
    _write(tables, pa.schema([("edge_key", pa.int64()), ("part", pa.int32())]), path)


def _write(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)

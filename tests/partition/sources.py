"""Graph sources for tests, and partitioning on several ranks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.data.graph import Graph
from graphtheta.data.source import TableInMemory
from graphtheta.data.types import EDGE, NODE, EdgeTable, NodeTable, edge_tables, node_tables
from graphtheta.partition import Build, GraphSource, PartTables, Plan, Resources, build


@dataclass(frozen=True)
class IdSource:
    """Graph whose edges refer to nodes by id; without a node table if `nodes` is None."""

    nodes: pa.Table | None
    edges: pa.Table
    keyed: bool = False
    memory_bytes: int = 0

    @property
    def num_nodes(self) -> int | None:
        return None if self.nodes is None else self.nodes.num_rows

    @property
    def num_edges(self) -> int:
        return int(self.edges.num_rows)

    @property
    def node_tables(self) -> tuple[NodeTable, ...]:
        return () if self.nodes is None else node_tables({NODE: TableInMemory("nodes", self.nodes)})

    @property
    def edge_tables(self) -> tuple[EdgeTable, ...]:
        return edge_tables({EDGE: TableInMemory("edges", self.edges)}, [NODE])

    def digest(self) -> str:
        return ""

    def stamp(self) -> str:
        return ""


def by_id(graph: Graph) -> IdSource:
    """Return the same graph with edges that refer to nodes by id."""
    edges = graph.edges
    for end in ("src", "dst"):
        ids = graph.nodes["id"].take(edges[end])
        edges = edges.set_column(edges.column_names.index(end), end, ids)
    return IdSource(graph.nodes, edges)


@dataclass(frozen=True)
class Whole:
    """Build of all ranks together."""

    build: Build
    parts: dict[int, PartTables]


def build_on(source: GraphSource, num_parts: int, workers: int, **options: Any) -> Whole:
    """Build on several ranks, and check that the manifest and the book are the same on each."""
    builds: dict[int, Build] = {}
    lock = threading.Lock()

    def work(comm: Communicator) -> None:
        built = build(source, Plan(num_parts, **options), Resources(comm))
        with lock:
            builds[comm.rank] = built

    run_local(work, workers, timeout_s=60)
    first = builds[0]
    for built in builds.values():
        assert built.manifest == first.manifest
        assert built.book.digests == first.book.digests
        np.testing.assert_array_equal(built.book.first_new_id, first.book.first_new_id)
    for rank, built in builds.items():
        assert all(part * workers // num_parts == rank for part in built.parts)
    return Whole(first, {p: t for rank in sorted(builds) for p, t in builds[rank].parts.items()})


@dataclass(frozen=True)
class TypedIdSource:
    """Graph of several node types whose edges refer to nodes by id."""

    node_tables: tuple[NodeTable, ...]
    edge_tables: tuple[EdgeTable, ...]
    keyed: bool = False
    memory_bytes: int = 0

    @property
    def num_nodes(self) -> int:
        return sum(table.num_rows for table in self.node_tables)

    @property
    def num_edges(self) -> int:
        return sum(table.num_rows for table in self.edge_tables)

    @classmethod
    def of(cls, graph: Graph) -> TypedIdSource:
        tables = []
        for table in graph.edge_tables:
            edges = graph.edge_table(table.relation)
            types = table.relation.source, table.relation.destination
            for end, of_type in zip(("src", "dst"), types, strict=True):
                nodes = next(nodes for nodes in graph.node_tables if nodes.name == of_type)
                rows = pa.array(edges[end].to_numpy() - nodes.first_key)
                ids = graph.node_table(of_type)["id"].take(rows)
                edges = edges.set_column(edges.column_names.index(end), end, ids)
            tables.append(replace(table, table=TableInMemory(table.where, edges)))
        return cls(graph.node_tables, tuple(tables))

    def digest(self) -> str:
        return ""

    def stamp(self) -> str:
        return ""

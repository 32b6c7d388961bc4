"""GraphSource: what a graph is built from, read by ranges of rows and in chunks of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

__all__ = ["GraphSource", "TopologySource"]


class GraphSource(Protocol):
    """A node table and an edge table that are read by ranges of rows.

    Row i of the node table is node_key i, row j of the edge table is edge_key j, whoever reads.
    `graphtheta.Graph` (in memory) and `graphtheta.datasets.tables.TableSource` (files) are two.
    """

    @property
    def num_nodes(self) -> int | None:
        """Rows of the node table; None if there is none: the nodes are the edges' sorted ids."""

    @property
    def num_edges(self) -> int:
        """Rows of the edge table."""

    @property
    def keyed(self) -> bool:
        """Whether `src` and `dst` are node keys; otherwise they are original ids."""

    @property
    def node_schema(self) -> pa.Schema:
        """Columns of the node table; none without one."""

    @property
    def edge_schema(self) -> pa.Schema:
        """Columns of the edge table."""

    def node_chunks(self, start: int, stop: int, *, ids_only: bool = False) -> Iterator[pa.Table]:
        """Yield rows [start, stop) of the node table, in order, in chunks.

        Columns are `id` (int64 or string), and where there are such: `features`, `label:<name>`,
        `split:<name>` and others. A chunk has at most 2^20 rows, and of wide rows as few as make
        128 MiB; there is never more than one in memory, so let go of it before the next. A range
        without rows gives one chunk without rows. Not called without a node table.

        Args:
            start: First row.
            stop: The row after the last.
            ids_only: Yield `id` alone; nothing else is read.

        Raises:
            GraphFormatError: If the rows cannot be read as such columns.
        """

    def edge_chunks(self, start: int, stop: int, *, ends_only: bool = False) -> Iterator[pa.Table]:
        """Yield rows [start, stop) of the edge table, in order, in chunks as of nodes.

        Columns are `src` and `dst` (int64 node keys, or original ids of the type of `id`), and the
        edge columns: `attr`, `type`, `weight`, `label:<name>`, `split:<name>` and others.

        Args:
            start: First row.
            stop: The row after the last.
            ends_only: Yield `src` and `dst` alone; nothing else is read.

        Raises:
            GraphFormatError: If the rows cannot be read as such columns.
        """

    def digest(self) -> str:
        """Return the xxh3 of the content: the key under which a partitioned copy is cached."""

    def stamp(self) -> str:
        """Return what changes whenever the content does, without reading all of it."""


class TopologySource:
    """A source without its columns: ids and ends of edges.

    Args:
        source: The whole.
    """

    def __init__(self, source: GraphSource) -> None:
        self._source = source
        self.num_nodes, self.num_edges = source.num_nodes, source.num_edges
        self.keyed = source.keyed
        self.node_schema = pa.schema([f for f in source.node_schema if f.name == "id"])
        self.edge_schema = pa.schema([source.edge_schema.field(end) for end in ("src", "dst")])

    def node_chunks(self, start: int, stop: int, *, ids_only: bool = False) -> Iterator[pa.Table]:
        """Yield ids of nodes [start, stop)."""
        yield from self._source.node_chunks(start, stop, ids_only=True)

    def edge_chunks(self, start: int, stop: int, *, ends_only: bool = False) -> Iterator[pa.Table]:
        """Yield ends of edges [start, stop)."""
        yield from self._source.edge_chunks(start, stop, ends_only=True)

    def digest(self) -> str:
        """Return the hash of the whole."""
        return self._source.digest()

    def stamp(self) -> str:
        """Return the stamp of the whole."""
        return self._source.stamp()

"""Protocol of graph inputs that are read by ranges of rows, in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

__all__ = ["GraphSource", "TopologySource"]


class GraphSource(Protocol):
    """Node table and edge table that are read by ranges of rows.

    Row i of the node table has node_key i, and row j of the edge table has edge_key j.
    `graphtheta.Graph` (in memory) and `graphtheta.datasets.tables.TableSource` (files) implement
    this protocol.
    """

    @property
    def num_nodes(self) -> int | None:
        """Rows of the node table. If None, there is none, and nodes are the sorted ids of edges."""

    @property
    def num_edges(self) -> int:
        """Rows of the edge table."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of rows that the source keeps in memory; 0 if it reads them from files."""

    @property
    def keyed(self) -> bool:
        """Whether `src` and `dst` are node keys; otherwise they are original ids."""

    @property
    def node_schema(self) -> pa.Schema:
        """Columns of the node table; empty if there is none."""

    @property
    def edge_schema(self) -> pa.Schema:
        """Columns of the edge table."""

    def node_chunks(self, start: int, stop: int, *, ids_only: bool = False) -> Iterator[pa.Table]:
        """Yield rows [start, stop) of the node table, in order, in chunks.

        Columns are `id` (int64 or string) and, if there are any, `features`, `label:<name>`,
        `split:<name>` and others. A chunk has at most 2^20 rows and about 128 MiB. Release a chunk
        before you request the next, so that only one is in memory. A range without rows yields one
        empty chunk. This is not called if there is no node table.

        Args:
            start: First row.
            stop: Row after the last one.
            ids_only: Whether to read and yield only `id`.

        Raises:
            GraphFormatError: If the rows cannot be read as such columns.
        """

    def edge_chunks(self, start: int, stop: int, *, ends_only: bool = False) -> Iterator[pa.Table]:
        """Yield rows [start, stop) of the edge table, in order, in chunks like those of nodes.

        Columns are `src` and `dst` (int64 node keys, or original ids of the type of `id`), and the
        edge columns: `attr`, `type`, `weight`, `label:<name>`, `split:<name>` and others.

        Args:
            start: First row.
            stop: Row after the last one.
            ends_only: Whether to read and yield only `src` and `dst`.

        Raises:
            GraphFormatError: If the rows cannot be read as such columns.
        """

    def digest(self) -> str:
        """Return the xxh3 hash of the content, under which a partitioned copy is cached."""

    def stamp(self) -> str:
        """Return a text that changes if the content does, without reading all of the content."""


class TopologySource:
    """Source with only the ids of nodes and the ends of edges of another source.

    Args:
        source: Source with all columns.
    """

    def __init__(self, source: GraphSource) -> None:
        self._source = source
        self.num_nodes, self.num_edges = source.num_nodes, source.num_edges
        self.keyed, self.memory_bytes = source.keyed, source.memory_bytes
        self.node_schema = pa.schema([f for f in source.node_schema if f.name == "id"])
        self.edge_schema = pa.schema([source.edge_schema.field(end) for end in ("src", "dst")])

    def node_chunks(self, start: int, stop: int, *, ids_only: bool = False) -> Iterator[pa.Table]:
        yield from self._source.node_chunks(start, stop, ids_only=True)

    def edge_chunks(self, start: int, stop: int, *, ends_only: bool = False) -> Iterator[pa.Table]:
        yield from self._source.edge_chunks(start, stop, ends_only=True)

    def digest(self) -> str:
        return self._source.digest()

    def stamp(self) -> str:
        return self._source.stamp()

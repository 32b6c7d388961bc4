"""Protocol of graph inputs: named tables that are read by ranges of rows, in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from graphtheta.data.batches import table_chunks

__all__ = [
    "ColumnsOf",
    "GraphSource",
    "SourceTable",
    "TableInMemory",
    "TopologySource",
    "id_type",
    "node_schema",
]


class SourceTable(Protocol):
    """Table of nodes or edges that is read by ranges of rows.

    Columns of a node table are `id` (int64 or string) and, if there are any, `features`,
    `label:<name>`, `split:<name>` and others. Columns of an edge table are `src` and `dst` (int64
    node keys, or original ids of the type of `id`) and, if there are any, `attr`, `type`, `weight`,
    `label:<name>`, `split:<name>` and others. `graphtheta.data.schema` describes them. Their values
    need not be valid: the reader validates them, under the name of the table.
    """

    @property
    def name(self) -> str:
        """Name of the table in messages, such as the path of its file."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""

    @property
    def schema(self) -> pa.Schema:
        """Types of the columns."""

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Yield rows [start, stop), in order, in chunks.

        A chunk has at most 2^20 rows and about 128 MiB. Release a chunk before you request the
        next, so that only one is in memory. A range without rows yields one empty chunk.

        Args:
            start: First row.
            stop: Row after the last one.
            columns: Names of the columns to read. If None, all columns.

        Raises:
            GraphFormatError: If the rows cannot be read as such columns.
        """


class GraphSource(Protocol):
    """Node table and edge table that are read by ranges of rows.

    Row i of the node table has node_key i, and row j of the edge table has edge_key j.
    `graphtheta.Graph` (in memory) and `graphtheta.datasets.tables.TableSource` (files) implement
    this protocol.
    """

    @property
    def node_table(self) -> SourceTable | None:
        """Node table. If None, the nodes are the sorted distinct ids of the edges."""

    @property
    def edge_table(self) -> SourceTable:
        """Edge table."""

    @property
    def num_nodes(self) -> int | None:
        """Number of nodes, or None without a node table."""

    @property
    def num_edges(self) -> int:
        """Number of edges."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of rows that the source keeps in memory; 0 if it reads them from files."""

    @property
    def keyed(self) -> bool:
        """Whether `src` and `dst` are node keys, and all columns have been validated.

        Otherwise `src` and `dst` are original ids.
        """

    def digest(self) -> str:
        """Return the xxh3 hash of the content, under which a partitioned copy is cached."""

    def stamp(self) -> str:
        """Return a text that changes if the content does, without reading all of the content."""


def node_schema(source: GraphSource) -> pa.Schema:
    """Return the columns of the node table of a source; empty without a node table."""
    return pa.schema([]) if source.node_table is None else source.node_table.schema


def id_type(source: GraphSource) -> pa.DataType:
    """Return the type of the node ids of a source: those of the node table, or of the edges."""
    if source.node_table is None:
        return source.edge_table.schema.field("src").type
    return source.node_table.schema.field("id").type


@dataclass(frozen=True, slots=True)
class TableInMemory:
    """Table of a source whose rows are in memory.

    Attributes:
        name: Name of the table in messages.
        rows: The table.
    """

    name: str
    rows: pa.Table

    @property
    def num_rows(self) -> int:
        return int(self.rows.num_rows)

    @property
    def schema(self) -> pa.Schema:
        return self.rows.schema

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        rows = self.rows if columns is None else self.rows.select(list(columns))
        return table_chunks(rows, start, stop)


class ColumnsOf:
    """Table of a source with only some of the columns of another table.

    Args:
        table: Table with all columns.
        columns: Names of the columns.
    """

    def __init__(self, table: SourceTable, columns: Sequence[str]) -> None:
        self._table, self._columns = table, tuple(columns)
        self.name, self.num_rows = table.name, table.num_rows
        self.schema = pa.schema([table.schema.field(name) for name in columns])

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        return self._table.chunks(start, stop, self._columns if columns is None else columns)


class TopologySource:
    """Source with only the ids of nodes and the ends of edges of another source.

    Args:
        source: Source with all columns.
    """

    def __init__(self, source: GraphSource) -> None:
        self._source = source
        nodes = source.node_table
        self.node_table = None if nodes is None else ColumnsOf(nodes, ["id"])
        self.edge_table = ColumnsOf(source.edge_table, ["src", "dst"])
        self.num_nodes, self.num_edges = source.num_nodes, source.num_edges
        self.keyed, self.memory_bytes = source.keyed, source.memory_bytes

    def digest(self) -> str:
        return self._source.digest()

    def stamp(self) -> str:
        return self._source.stamp()

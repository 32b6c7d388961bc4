"""Protocol of graph inputs: named tables that are read by ranges of rows, in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa
import xxhash

from graphtheta.data.batches import rows_per_chunk, table_chunks
from graphtheta.data.schema import as_numpy, matrix_column
from graphtheta.data.sparse import is_sparse
from graphtheta.data.types import EdgeTable, NodeTable, SourceTable

__all__ = [
    "ColumnsOf",
    "DenseSource",
    "DenseTable",
    "GraphSource",
    "TableInMemory",
    "TopologySource",
]


class GraphSource(Protocol):
    """Node tables and edge tables that are read by ranges of rows.

    Row i of a node table has the node key `first_key` + i, and row j of an edge table the edge key
    `first_key` + j. An id occurs once in its node table. `graphtheta.Graph` (in memory) and
    `graphtheta.datasets.tables.TableSource` (files) implement this protocol.
    """

    @property
    def node_tables(self) -> tuple[NodeTable, ...]:
        """Node tables, one for each node type, in the order of their node keys.

        If empty, there is one node type, `node`, whose nodes are the sorted distinct ids of the
        edges, and one relation.
        """

    @property
    def edge_tables(self) -> tuple[EdgeTable, ...]:
        """Edge tables, one for each relation, in the order of their edge keys; at least one."""

    @property
    def num_nodes(self) -> int | None:
        """Number of nodes of all node tables, or None without a node table."""

    @property
    def num_edges(self) -> int:
        """Number of edges of all edge tables."""

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


class DenseTable:
    """Table of a source whose sparse columns are read as lists of all values.

    Args:
        table: Table with sparse columns.
    """

    def __init__(self, table: SourceTable) -> None:
        self._table = table
        self.name, self.num_rows = table.name, table.num_rows
        self.schema = pa.schema(
            [
                field.with_type(pa.list_(field.type.dtype, field.type.width))
                if is_sparse(field.type)
                else field
                for field in table.schema
            ]
        )

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        types = {field.name: field.type for field in self._table.schema if is_sparse(field.type)}
        read = types.keys() & set(self.schema.names if columns is None else columns)
        row = sum(types[name].width * types[name].dtype.bit_width // 8 for name in read)
        size = rows_per_chunk(row)
        for chunk in self._table.chunks(start, stop, columns):
            for first in range(0, max(1, chunk.num_rows) if read else 1, size):
                piece = chunk.slice(first, size) if read else chunk
                for name in read:
                    index = piece.column_names.index(name)
                    dense = matrix_column(as_numpy(piece[name]))
                    piece = piece.set_column(index, self.schema.field(name), dense)
                yield piece


class DenseSource:
    """Source whose sparse columns are read, and stored, as lists of all values.

    Args:
        source: Source with sparse columns.

    Attributes:
        source: That source.
    """

    def __init__(self, source: GraphSource) -> None:
        self.source = source
        self.node_tables = tuple(
            replace(table, table=DenseTable(table.table)) for table in source.node_tables
        )
        self.edge_tables = tuple(
            replace(table, table=DenseTable(table.table)) for table in source.edge_tables
        )
        self.num_nodes, self.num_edges = source.num_nodes, source.num_edges
        self.keyed, self.memory_bytes = source.keyed, source.memory_bytes

    def digest(self) -> str:
        return xxhash.xxh3_128(f"{self.source.digest()} dense".encode()).hexdigest()

    def stamp(self) -> str:
        return f"{self.source.stamp()} dense"


class TopologySource:
    """Source with only the ids of nodes and the ends of edges of another source.

    Args:
        source: Source with all columns.
    """

    def __init__(self, source: GraphSource) -> None:
        self._source = source
        self.node_tables = tuple(
            replace(table, table=ColumnsOf(table.table, ["id"])) for table in source.node_tables
        )
        self.edge_tables = tuple(
            replace(table, table=ColumnsOf(table.table, ["src", "dst"]))
            for table in source.edge_tables
        )
        self.num_nodes, self.num_edges = source.num_nodes, source.num_edges
        self.keyed, self.memory_bytes = source.keyed, source.memory_bytes

    def digest(self) -> str:
        return self._source.digest()

    def stamp(self) -> str:
        return self._source.stamp()

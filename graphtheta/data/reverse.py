"""Source that adds to each relation the reverse relation, in a range of edge keys of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import xxhash

from graphtheta.data.source import GraphSource
from graphtheta.data.types import Relation, SourceTable, edge_tables
from graphtheta.errors import ConfigError

__all__ = ["ReverseTable", "WithReverse"]

_SWAPPED = {"src": "dst", "dst": "src"}
_TARGETS = ("label:", "split:")


class ReverseTable:
    """Edge table whose row i is the reverse of row i of another one.

    It has the other columns, too, except labels and splits, which belong to the edges themselves.

    Args:
        table: Edge table to reverse.
    """

    def __init__(self, table: SourceTable) -> None:
        self._table = table
        self.name, self.num_rows = f"{table.name} (reversed)", table.num_rows
        self.schema = pa.schema(
            [
                table.schema.field(_SWAPPED.get(name, name)).with_name(name)
                for name in table.schema.names
                if not name.startswith(_TARGETS)
            ]
        )

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        names = self.schema.names if columns is None else list(columns)
        read = [_SWAPPED.get(name, name) for name in names]
        for chunk in self._table.chunks(start, stop, read):
            yield chunk.select(read).rename_columns(names)


class WithReverse:
    """Source with the relation `rev_<name>` in addition to each relation of another source.

    The reverse of the edge with key k of a relation has the key `first_key` + k, where `first_key`
    counts the edges of the other source. No row is copied: reverse edges are read from the same
    tables.

    Args:
        source: Source without reverse relations.

    Attributes:
        source: That source.

    Raises:
        ConfigError: If a reverse relation exists already.
    """

    def __init__(self, source: GraphSource) -> None:
        self.source = source
        self.node_tables = source.node_tables
        self.num_nodes, self.keyed = source.num_nodes, source.keyed
        self.memory_bytes = source.memory_bytes
        given = {table.relation: table.table for table in source.edge_tables}
        if not source.node_tables:
            raise ConfigError(
                "add_reverse (--add-reverse): expected a graph with a node table, got only edges. "
                "Add a node table, or use --undirected."
            )
        for relation, table in list(given.items()):
            back = Relation(relation.destination, f"rev_{relation.name}", relation.source)
            if back in given:
                raise ConfigError(
                    f"add_reverse (--add-reverse): expected no relation {back.text}, got one in "
                    f"{given[back].name}. Leave --add-reverse out, or leave out the relation."
                )
            given[back] = ReverseTable(table)
        self.edge_tables = edge_tables(given, [table.name for table in source.node_tables])
        self.num_edges = sum(table.num_rows for table in self.edge_tables)

    def digest(self) -> str:
        return xxhash.xxh3_128(f"{self.source.digest()} with reverse".encode()).hexdigest()

    def stamp(self) -> str:
        return f"{self.source.stamp()} with reverse"

"""Node and edge tables of a graph in memory, validated when they are set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import pyarrow as pa

from graphtheta.data.given import by_type
from graphtheta.data.source import TableInMemory
from graphtheta.data.sparse import entries_of, is_sparse, with_entries
from graphtheta.data.tables import (
    as_table,
    digest_of,
    moved,
    rows_of,
    validated_edges,
    validated_nodes,
)
from graphtheta.data.types import (
    EDGE,
    NODE,
    EdgeTable,
    NodeTable,
    Relation,
    Table,
    edge_tables,
    node_tables,
    position_of,
)
from graphtheta.errors import GraphFormatError

__all__ = ["GraphTables"]


class GraphTables:
    """Tables of `Graph`, which describes the arguments; a `GraphSource`."""

    __slots__ = ("_digest", "edge_tables", "node_tables")

    keyed = True  # edges contain node keys, not ids
    node_tables: tuple[NodeTable, ...]
    edge_tables: tuple[EdgeTable, ...]

    def __init__(
        self,
        nodes: pa.Table | Mapping[str, pa.Table],
        edges: pa.Table | Mapping[Relation, pa.Table],
        *,
        names: Sequence[str] = (),
    ) -> None:
        of_nodes, of_edges = by_type(nodes, edges)
        given = [*of_nodes.values(), *of_edges.values()]
        where = names or [name for name, _ in given]
        tables = [
            TableInMemory(name, as_table(rows, name))
            for name, (_, rows) in zip(where, given, strict=True)
        ]
        of_types = node_tables(zip(of_nodes, tables, strict=False))
        of_relations = zip(of_edges, tables[len(of_nodes) :], strict=True)
        self._set(of_types, edge_tables(of_relations, of_nodes))

    def _set(self, nodes: tuple[NodeTable, ...], edges: tuple[EdgeTable, ...]) -> None:
        """Validate tables, and make them those of the graph."""
        if not sum(table.num_rows for table in nodes):
            raise GraphFormatError(
                f"{nodes[0].where}: expected at least one node, got none. Check that the input is "
                "not empty."
            )
        self.node_tables = tuple(_normal(table, validated_nodes(table)) for table in nodes)
        types = {table.name: table for table in nodes}
        self.edge_tables = tuple(_normal(table, validated_edges(table, types)) for table in edges)
        self._digest = ""

    @classmethod
    def _of(cls, tables: tuple[tuple[NodeTable, ...], tuple[EdgeTable, ...]]) -> Self:
        graph = cls.__new__(cls)
        graph._set(*tables)
        return graph

    # Tables

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return sum(table.num_rows for table in self.node_tables)

    @property
    def num_edges(self) -> int:
        """Number of directed edges."""
        return sum(table.num_rows for table in self.edge_tables)

    @property
    def nodes(self) -> pa.Table:
        """Node table of a graph of one node type.

        Raises:
            ConfigError: If there are several types; see `node_table`.
        """
        return self.node_table()

    @property
    def edges(self) -> pa.Table:
        """Edge table of a graph of one relation.

        Raises:
            ConfigError: If there are several relations; see `edge_table`.
        """
        return self.edge_table()

    @property
    def node_types(self) -> tuple[str, ...]:
        """Names of the node types; `("node",)` in a graph without types."""
        return tuple(table.name for table in self.node_tables)

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Relations; `(("node", "to", "node"),)` in a graph without types."""
        return tuple(table.relation for table in self.edge_tables)

    def node_table(self, node_type: str | None = None) -> pa.Table:
        """Return the node table of a type; if `node_type` is None, of the only one.

        Raises:
            ConfigError: If there is no such type, or several and `node_type` is None.
        """
        return rows_of(self.node_tables[position_of("node type", node_type, self.node_types)])

    def edge_table(self, relation: Relation | str | None = None) -> pa.Table:
        """Return the edge table of a relation, with node keys; if None, of the only one.

        Args:
            relation: Three names, or a text such as `author-writes-paper`.

        Raises:
            ConfigError: If there is no such relation, or several and `relation` is None.
        """
        text = None if relation is None else Relation.of(relation).text
        texts = [of.text for of in self.relations]
        return rows_of(self.edge_tables[position_of("relation", text, texts)])

    def _rows_by_type(self) -> tuple[dict[str, pa.Table], dict[Relation, pa.Table]]:
        """Return the tables by type, with rows of the node tables as ends of edges."""
        edges = moved(self.node_tables, self.edge_tables, -1)
        return (
            {table.name: rows_of(table) for table in self.node_tables},
            {table.relation: rows_of(table) for table in edges},
        )

    # GraphSource

    @property
    def memory_bytes(self) -> int:
        return sum(int(rows.nbytes) for rows in self._rows())

    def _rows(self) -> list[pa.Table]:
        """Return the rows of all tables, nodes first."""
        nodes = [rows_of(table) for table in self.node_tables]
        return nodes + [rows_of(table) for table in self.edge_tables]

    def stamp(self) -> str:
        return self.digest()

    def digest(self) -> str:
        """Return the xxh3 hash of all columns; equal graphs have equal digests."""
        if not self._digest:
            tables = self._rows()
            if self.node_types != (NODE,) or self.relations != (EDGE,):
                names = [*self.node_types, *(relation.text for relation in self.relations)]
                tables.append(pa.table({"name": names}))
            self._digest = digest_of(tables)
        return self._digest


def _normal(table: Table, rows: pa.Table) -> Table:
    """Return a table of these rows, in one chunk and without metadata."""
    rows = rows.combine_chunks().replace_schema_metadata(None)
    for index, field in enumerate(rows.schema):
        if is_sparse(field.type):  # the partitioner estimates memory by it
            field = with_entries(field, rows.num_rows, entries_of(rows[index]))
            rows = rows.set_column(index, field, rows[index])
    return replace(table, table=TableInMemory(table.where, rows))

"""Graph of a node table and an edge table in files, read by ranges of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Unpack

import pyarrow as pa
import xxhash

from graphtheta.data.mapping import (
    Column,
    ColumnOptions,
    missing_rows,
    options_by_table,
    plan_edges,
    plan_nodes,
    shape,
)
from graphtheta.data.schema import refuse
from graphtheta.datasets.files import SUFFIXES, TableFiles, exists
from graphtheta.errors import ConfigError

__all__ = ["TableSource", "read", "recognises"]


class TableSource:
    """Graph in files: a `GraphSource` that reads only the requested rows.

    Args:
        nodes_uri: Node table, in a format of `graphtheta.datasets.files`. If None, the nodes are
            the sorted distinct ids of the edges.
        edges_uri: Edge table.
        columns: Names of the columns; see `graphtheta.data.mapping.ColumnOptions`.

    Other columns are not read. A CSV file needs a header line to name columns; in an edge list
    without one, source and destination are the first two columns. Its fields are separated by tabs,
    commas, semicolons or spaces, its numbers are int64 or float32, and leading lines that start
    with `#` are skipped. Pairs of ids in `.npy` and `.bin` files do not name columns either; see
    `graphtheta.datasets.binary_edges`.

    Raises:
        ConfigError: If a file or column does not exist.
        GraphFormatError: If a file cannot be read.
    """

    keyed = False

    def __init__(
        self, nodes_uri: str | None, edges_uri: str, **columns: Unpack[ColumnOptions]
    ) -> None:
        node_options, edge_options = options_by_table(columns)
        self._nodes: _Table | None = None
        if nodes_uri is not None:
            files = TableFiles(nodes_uri)
            self._nodes = _Table(files, plan_nodes(files.names, nodes_uri, **node_options))
        ends = columns.get("src", "src"), columns.get("dst", "dst")
        files = TableFiles(edges_uri, unnamed=ends)
        self._edges = _Table(files, plan_edges(files.names, edges_uri, **edge_options))

    @property
    def num_nodes(self) -> int | None:
        return None if self._nodes is None else self._nodes.files.num_rows

    @property
    def num_edges(self) -> int:
        return self._edges.files.num_rows

    @property
    def node_schema(self) -> pa.Schema:
        return pa.schema([]) if self._nodes is None else self._nodes.schema

    @property
    def edge_schema(self) -> pa.Schema:
        return self._edges.schema

    def node_chunks(self, start: int, stop: int, *, ids_only: bool = False) -> Iterator[pa.Table]:
        if self._nodes is None:
            raise ConfigError("nodes: expected a node table, got none. Use the edges' ids.")
        names = ["id"] if ids_only else list(self._nodes.plan)
        return self._nodes.chunks(start, stop, names)

    def edge_chunks(self, start: int, stop: int, *, ends_only: bool = False) -> Iterator[pa.Table]:
        names = ["src", "dst"] if ends_only else list(self._edges.plan)
        return self._edges.chunks(start, stop, names)

    def stamp(self) -> str:
        tables = [table for table in (self._nodes, self._edges) if table is not None]
        return repr([(sorted(t.plan.items()), t.files.stamp()) for t in tables])

    def digest(self) -> str:
        """Return the xxh3 hash of all files and of the columns that are used.

        This reads all files, so only one rank should call it.
        """
        state = xxhash.xxh3_128()
        for table in (self._nodes, self._edges):
            if table is not None:
                state.update(repr(table.plan).encode())
                table.files.update(state)
            state.update(b"|")
        return state.hexdigest()


class _Table:
    """Files of a table, with the mapping of their columns and the types of the first row."""

    def __init__(self, files: TableFiles, plan: Mapping[str, Column]) -> None:
        self.files = files
        self.plan = plan
        self.schema = self._types()

    def _types(self) -> pa.Schema:
        # The first row determines the types, unless a list label is missing there.
        schema, start, stop = pa.schema([]), 0, 1
        while True:
            for raw in self.files.stream(start, stop, _inputs(self.plan)):
                found = shape(raw, self.plan, self.files.uri, start).schema
                kept = schema if len(schema) else found
                pairs = zip(kept, found, strict=True)
                schema = pa.schema([new if _is_empty(old.type) else old for old, new in pairs])
                if not any(map(_is_empty, schema.types)):
                    return schema
            if stop >= self.files.num_rows:
                return schema
            start, stop = stop, stop * 16

    def chunks(self, start: int, stop: int, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield rows [start, stop) of some columns."""
        plan = {name: self.plan[name] for name in names}
        schema = pa.schema([self.schema.field(name) for name in names])
        for raw in self.files.stream(start, stop, _inputs(plan)):
            if not raw.num_rows:
                yield schema.empty_table()
                continue
            yield self._fitting(shape(raw, plan, self.files.uri, start), schema, start)
            start += raw.num_rows

    def _fitting(self, table: pa.Table, schema: pa.Schema, first_row: int) -> pa.Table:
        for index, (field, expected) in enumerate(zip(table.schema, schema, strict=True)):
            if field.type == expected.type:
                continue
            if _is_empty(field.type) and table[index].null_count == len(table):
                rows = missing_rows(len(table), expected.type)
                table = table.set_column(index, field.name, rows)
                continue
            raise refuse(
                f"{self.files.uri}: {field.name}",
                f"{expected.type} as in row 0",
                f"{field.type} in rows {first_row} to {first_row + len(table) - 1}",
                "Give every row the same type and length.",
            )
        return table


def _inputs(plan: Mapping[str, Column]) -> list[str]:
    return list(dict.fromkeys(name for column in plan.values() for name in column.inputs))


def _is_empty(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and kind.list_size == 0)


def recognises(uri: str) -> bool:
    """Return whether `uri` is a folder with an edge table, and possibly a node table."""
    return _table_in(uri, "edges") is not None


def read(uri: str, **columns: Unpack[ColumnOptions]) -> TableSource:
    """Open a folder with `nodes/` and `edges/`, or `nodes.parquet` and `edges.parquet`.

    Without a node table, the nodes are the sorted distinct ids of the edges. The options are those
    of `TableSource`.

    Raises:
        ConfigError: If a named column does not exist.
        GraphFormatError: If a file cannot be read.
    """
    nodes_uri = _table_in(uri, "nodes")
    for name in ("features", "labels", "splits"):
        if nodes_uri is None and columns.get(name) is not None:
            raise ConfigError(
                f"{uri}: expected a node table with {name}, got none. Add nodes.parquet, or leave "
                f"out {name}."
            )
    return TableSource(nodes_uri, _table_in(uri, "edges") or uri, **columns)


def _table_in(uri: str, name: str) -> str | None:
    candidates = [f"{uri.rstrip('/')}/{name}{ending}" for ending in ("", *SUFFIXES)]
    return next((candidate for candidate in candidates if exists(candidate)), None)

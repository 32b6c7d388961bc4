"""Graph of a node table and an edge table in files, read by ranges of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Unpack

import pyarrow as pa
import xxhash

from graphtheta.data.convert import convert, schema_of
from graphtheta.data.mapping import (
    Column,
    ColumnOptions,
    options_by_table,
    plan_edges,
    plan_nodes,
)
from graphtheta.data.survey import check_kinds, unify_ids
from graphtheta.data.types import EDGE, NODE, edge_tables, node_tables
from graphtheta.datasets.files import SUFFIXES, TableFiles, exists
from graphtheta.errors import ConfigError
from graphtheta.wording import counted

__all__ = ["TableSource", "read", "recognises"]


class TableSource:
    """Graph in files: a `GraphSource` that reads only the requested rows.

    Args:
        nodes_uri: Node table, in a format of `graphtheta.datasets.files`. If None, the nodes are
            the sorted distinct ids of the edges.
        edges_uri: Edge table.
        columns: Names of the columns; see `graphtheta.data.mapping.ColumnOptions`.

    Values are converted, and not validated. Other columns are not read. A CSV file needs a header
    line to name columns; in an edge list without one, source and destination are the first two
    columns. Its fields are separated by tabs, commas, semicolons or spaces, its numbers are int64
    or float32, and leading lines that start with `#` are skipped. Pairs of ids in `.npy` and `.bin`
    files do not name columns either; see `graphtheta.datasets.binary_edges`.

    Raises:
        ConfigError: If a file or column does not exist.
        GraphFormatError: If a file cannot be read.
    """

    keyed = False
    memory_bytes = 0

    def __init__(
        self, nodes_uri: str | None, edges_uri: str, **columns: Unpack[ColumnOptions]
    ) -> None:
        node_options, edge_options = options_by_table(columns)
        nodes: dict[str, Column] = {}
        self._nodes: _FileTable | None = None
        if nodes_uri is not None:
            files = TableFiles(nodes_uri)
            nodes = files.survey(plan_nodes(files.names, nodes_uri, **node_options))
            self._nodes = _FileTable(files, nodes)
        ends = columns.get("src"), columns.get("dst")
        unnamed = ends[0] or "src", ends[1] or "dst"
        files = TableFiles(edges_uri, unnamed, named=any(ends))
        edges = files.survey(plan_edges(files.names, edges_uri, **edge_options))
        self._edges = _FileTable(files, edges)
        self.node_tables = node_tables({} if self._nodes is None else {NODE: self._nodes})
        self.edge_tables = edge_tables({EDGE: self._edges}, [NODE])
        ids = [(nodes, "id"), (edges, "src"), (edges, "dst")]
        unify_ids(ids, columns.get("id_type"))
        check_kinds([nodes, edges], columns.get("label_kinds"))

    def __repr__(self) -> str:
        rows = [f"{name}: {text}" for name, text in self.files()]
        return f"TableSource({'; '.join(rows)})"

    @property
    def num_nodes(self) -> int | None:
        return None if self._nodes is None else self._nodes.num_rows

    @property
    def num_edges(self) -> int:
        return self._edges.num_rows

    def files(self) -> list[tuple[str, str]]:
        """Return (name, value) rows of text: the file of each table, and which columns are read."""
        rows = []
        for name, table in (("node table", self._nodes), ("edge table", self._edges)):
            if table is None:
                continue
            inputs = dict.fromkeys(n for column in table.plan.values() for n in column.inputs)
            skipped = [column for column in table.files.names if column not in inputs]
            text = f"{table.files.uri}, {counted(table.files.num_rows, 'row')}"
            ends = [column.inputs[0] for column in table.plan.values() if column.kind == "id"]
            text += f", {'ids' if name[0] == 'n' else 'source and destination'}: {', '.join(ends)}"
            text += f"; not read: {', '.join(skipped)}" if skipped else ""
            rows.append((name, text + (f"; {table.files.note}" if table.files.note else "")))
        return rows

    def summaries(self) -> dict[str, str]:
        """Return how labels were read, by name of table and column, as in `node label:y`."""
        tables = (("node", self._nodes), ("edge", self._edges))
        return {
            f"{name} {column}": found.summary
            for name, table in tables
            if table is not None
            for column, found in table.plan.items()
        }

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


class _FileTable:
    """Table in files, with the surveyed plan of its columns; a `SourceTable`."""

    def __init__(self, files: TableFiles, plan: Mapping[str, Column]) -> None:
        self.files = files
        self.plan = plan
        self.name = files.uri

    @property
    def num_rows(self) -> int:
        return self.files.num_rows

    @property
    def schema(self) -> pa.Schema:
        return schema_of(self.plan)

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        plan = {name: self.plan[name] for name in (self.plan if columns is None else columns)}
        inputs = {name: None for column in plan.values() for name in column.inputs}
        inputs |= {
            name: getattr(column.type, "value_type", column.type)
            for column in plan.values()
            if column.kind in ("id", "matrix", "weight")
            for name in column.inputs
        }
        for raw in self.files.stream(start, stop, inputs):
            yield convert(raw, plan, self.name, start)
            start += raw.num_rows


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

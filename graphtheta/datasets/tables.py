"""Graph of node tables and edge tables in files, read by ranges of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from graphtheta.data.convert import convert, schema_of
from graphtheta.data.encode.columns import type_of_text
from graphtheta.data.encode.like import named_like, planned_like, recipe_of
from graphtheta.data.encode.recipe import Recipe, TableRecipe
from graphtheta.data.mapping import (
    Column,
    ColumnOptions,
    check_kinds,
    options_by_table,
    plan_edges,
    plan_nodes,
)
from graphtheta.data.schema import need_column
from graphtheta.data.survey import unify_ids
from graphtheta.data.types import (
    EDGE,
    NODE,
    EdgeTable,
    NodeTable,
    Relation,
    SourceTable,
    edge_tables,
    node_tables,
    qualified,
)
from graphtheta.datasets.files import SUFFIXES, TableFiles, exists, names_in
from graphtheta.datasets.typed.options import options_by_type
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.wording import counted, some

__all__ = [
    "FileSource",
    "FileTable",
    "InputTable",
    "TableSource",
    "read",
    "recognises",
    "tables_like",
]


@dataclass(frozen=True, slots=True)
class InputTable:
    """Table of a graph of several tables.

    Attributes:
        uri: The file, or folder of files, or several of them.
        options: Names of its columns.
        others: Columns that are kept as they are, by the names that they get.
        train: Training rows, to which encoders are fitted. If None, those of the table's split.
    """

    uri: str | Sequence[str]
    options: ColumnOptions = field(default_factory=ColumnOptions)
    others: Mapping[str, str] = field(default_factory=dict)
    train: NDArray[np.bool_] | None = None


class FileTable:
    """Table in files; a `SourceTable`.

    Args:
        files: The files.
        plan: Columns to read.
        others: Columns that are kept as they are, by the names that they get.
        keys: Columns that edges are read from.
        train: As for `InputTable`.

    Attributes:
        plan: Columns to read, with their types.

    Raises:
        ConfigError: If one of the others does not exist.
        GraphFormatError: If a column has a wrong type, or a file cannot be read.
    """

    def __init__(
        self,
        files: TableFiles,
        plan: Mapping[str, Column],
        others: Mapping[str, str],
        keys: Sequence[str] = (),
        train: NDArray[np.bool_] | None = None,
    ) -> None:
        kept = {
            name: Column("other", (need_column(column, files.names, files.uri),))
            for name, column in others.items()
        }
        self.files, self.keys = files, tuple(keys)
        self.plan = files.survey({**plan, **kept}, train)
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
        ids = {c.inputs[0]: c.type for c in self.plan.values() if c.kind == "id"}
        inputs = {name: ids.get(name) for column in plan.values() for name in column.inputs}
        for column in plan.values():
            if column.kind == "weight":
                inputs |= dict.fromkeys(column.inputs, column.type)
            for encoded in column.encoded:
                inputs[encoded.column] = type_of_text(encoded.encoder, column.type)
        for raw in self.files.stream(start, stop, inputs):
            yield convert(raw, plan, self.name, start)
            start += raw.num_rows


class FileSource:
    """Graph in files: a `GraphSource` that reads only the requested rows.

    Args:
        files: Tables in files, by the names of node types and the texts of relations.
        nodes: Node tables, which read these files.
        edges: Edge tables, which do so too.
        more: Text that distinguishes the graph from others of the same files and columns.
    """

    keyed = False
    memory_bytes: int = 0

    def __init__(
        self,
        files: Mapping[str, FileTable],
        nodes: tuple[NodeTable, ...],
        edges: tuple[EdgeTable, ...],
        more: str = "",
    ) -> None:
        self._tables, self._more = files, more
        self.node_tables, self.edge_tables = nodes, edges

    def with_columns(self, columns: Mapping[str, Mapping[str, pa.Array]]) -> FileSource:
        """Return a source with columns in memory in addition.

        Args:
            columns: For some node types, and texts of relations, columns of numbers by name, with
                a value for each row.
        """
        given = [column for of_table in columns.values() for column in of_table.values()]
        more = xxhash.xxh3_128(repr([(owner, [*of]) for owner, of in columns.items()]).encode())
        for column in given:
            more.update(column.to_numpy())
        source = FileSource(
            self._tables,
            tuple(
                replace(t, table=_MoreColumns(t.table, columns.get(t.name, {})))
                for t in self.node_tables
            ),
            tuple(
                replace(t, table=_MoreColumns(t.table, columns.get(t.relation.text, {})))
                for t in self.edge_tables
            ),
            self._more + more.hexdigest(),
        )
        source.memory_bytes = self.memory_bytes + sum(column.nbytes for column in given)
        return source

    def __repr__(self) -> str:
        rows = [f"{name}: {text}" for name, text in self.files()]
        return f"{type(self).__name__}({'; '.join(rows)})"

    @property
    def num_nodes(self) -> int | None:
        return sum(table.num_rows for table in self.node_tables) if self.node_tables else None

    @property
    def num_edges(self) -> int:
        return sum(table.num_rows for table in self.edge_tables)

    def files(self) -> list[tuple[str, str]]:
        """Return (name, value) rows of text: the file of each table, and which columns are read."""
        rows = []
        nodes = {table.name for table in self.node_tables}
        for owner, table in self._tables.items():
            inputs = {n for column in table.plan.values() for n in column.inputs} | {*table.keys}
            skipped = [column for column in table.files.names if column not in inputs]
            text = f"{table.files.uri}, {counted(table.files.num_rows, 'row')}"
            ends = [column.inputs[0] for column in table.plan.values() if column.kind == "id"]
            what = "ids" if owner in nodes else "source and destination"
            text += f", {what}: {', '.join(ends) or 'numbers of rows'}"
            text += f", foreign keys: {', '.join(table.keys)}" if table.keys else ""
            text += f"; not read: {', '.join(skipped)}" if skipped else ""
            name = f"{'node' if owner in nodes else 'edge'} table"
            name += "" if owner in (NODE, EDGE.text) else f" {owner}"
            rows.append((name, text + (f"; {table.files.note}" if table.files.note else "")))
        return rows

    def summaries(self) -> dict[str, str]:
        """Return how labels were read, by name of table and column, as in `node label:y`."""
        tables = [
            *(("node", table.name, len(self.node_tables)) for table in self.node_tables),
            *(("edge", table.relation.text, len(self.edge_tables)) for table in self.edge_tables),
        ]
        return {
            f"{kind} {qualified(owner, column, count)}": found.summary
            for kind, owner, count in tables
            if owner in self._tables
            for column, found in self._tables[owner].plan.items()
        }

    def stamp(self) -> str:
        tables = self._tables.items()
        found = [(owner, sorted(t.plan.items()), t.files.stamp()) for owner, t in tables]
        return repr(found) + self._more

    def digest(self) -> str:
        """Return the xxh3 hash of all files and of the columns that are used.

        This reads all files, so only one rank should call it.
        """
        state = xxhash.xxh3_128(self._more.encode())
        for owner, table in self._tables.items():
            state.update(f"{owner} {table.plan!r}".encode())
            table.files.update(state)
            state.update(b"|")
        return state.hexdigest()


class _MoreColumns:
    """Table of a source with columns in memory in addition.

    Args:
        table: The table.
        columns: Columns, with a value for each of its rows.
    """

    def __init__(self, table: SourceTable, columns: Mapping[str, pa.Array]) -> None:
        self._table, self._columns = table, columns
        self.name, self.num_rows = table.name, table.num_rows
        fields = [pa.field(name, column.type) for name, column in columns.items()]
        self.schema = pa.schema([*table.schema, *fields])

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        names = self.schema.names if columns is None else list(columns)
        read = [name for name in names if name not in self._columns]
        for rows in self._table.chunks(start, stop, read or self._table.schema.names[:1]):
            for name in set(names) - set(read):
                rows = rows.append_column(name, self._columns[name].slice(start, rows.num_rows))
            yield rows.select(names)
            start += rows.num_rows


class TableSource(FileSource):
    """Graph in files: a `GraphSource` that reads only the requested rows.

    Args:
        nodes: Node table, in a format of `graphtheta.datasets.files`; or a mapping from node types
            to their tables. If None, the nodes are the sorted distinct ids of the edges.
        edges: Edge table, or a mapping from relations to their tables.
        columns: Names of the columns; see `graphtheta.data.mapping.ColumnOptions`. With mappings,
            a name such as `section` is a column of every table that has it, and one such as
            `package.section` or `author-writes-paper.stars` of that table.

    Values are converted, and not validated. Other columns are not read. A CSV file needs a header
    line to name columns; in an edge list without one, source and destination are the first two
    columns. Its fields are separated by tabs, commas, semicolons or spaces, its numbers are int64
    or float32, and leading lines that start with `#` are skipped. Pairs of ids in `.npy` and `.bin`
    files do not name columns either; see `graphtheta.datasets.binary_edges`.

    Raises:
        ConfigError: If a file or column does not exist.
        GraphFormatError: If a file cannot be read.
    """

    def __init__(
        self,
        nodes: str | Mapping[str, InputTable] | None,
        edges: str | Mapping[Relation, InputTable],
        **columns: Unpack[ColumnOptions],
    ) -> None:
        like = recipe_of(columns)
        of_nodes = (
            nodes if isinstance(nodes, Mapping) else {NODE: InputTable(nodes)} if nodes else {}
        )
        of_edges = edges if isinstance(edges, Mapping) else {EDGE: InputTable(edges)}
        node_files = {name: TableFiles(table.uri) for name, table in of_nodes.items()}
        edge_files = {r.text: _edge_files(table, columns) for r, table in of_edges.items()}
        given: Mapping[str, Any] = dict.fromkeys([*node_files, *edge_files], columns)
        if isinstance(edges, Mapping):
            given = options_by_type(
                columns,
                {name: files.names for name, files in node_files.items()},
                {text: files.names for text, files in edge_files.items()},
                {name: table.options for name, table in of_nodes.items()}
                | {relation.text: table.options for relation, table in of_edges.items()},
            )
        tables: dict[str, FileTable] = {}
        for name, table in of_nodes.items():
            named = named_like(like, name, given[name], node_files[name].names)
            options, _ = options_by_table(named)
            plan = plan_nodes(node_files[name].names, node_files[name].uri, **options)
            plan = planned_like(like, name, plan, node_files[name].names, node_files[name].uri)
            tables[name] = FileTable(node_files[name], plan, table.others, train=table.train)
        for relation, table in of_edges.items():
            text = relation.text
            _, ends = options_by_table(named_like(like, text, given[text], edge_files[text].names))
            plan = plan_edges(edge_files[text].names, edge_files[text].uri, **ends)
            plan = planned_like(like, text, plan, edge_files[text].names, edge_files[text].uri)
            tables[text] = FileTable(edge_files[text], plan, table.others, train=table.train)
        super().__init__(
            tables,
            node_tables({name: tables[name] for name in of_nodes}),
            edge_tables({r: tables[r.text] for r in of_edges}, of_nodes or [NODE]),
        )
        unify_ids(
            {name: tables[name].plan for name in of_nodes},
            {relation: tables[relation.text].plan for relation in of_edges},
            dict.fromkeys(of_nodes or [NODE], columns.get("id_type")),
        )
        if not isinstance(edges, Mapping):
            check_kinds([table.plan for table in tables.values()], columns.get("label_kinds"))


def _edge_files(table: InputTable, columns: ColumnOptions) -> TableFiles:
    """Return the files of an edge table, which need a header line if a column of ids is named."""
    src, dst = (columns.get(end) or table.options.get(end) for end in ("src", "dst"))
    unnamed = str(src or "src"), str(dst or "dst")
    return TableFiles(table.uri, unnamed, named=bool(src or dst))


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


def tables_like(uri: str, like: Recipe) -> tuple[str | None, str] | None:
    """Find the node table and the edge table in a folder by the columns that a recipe reads.

    The tables are files, or folders of files, of any name. The edge table has the columns of
    source and destination, and the node table that of ids; if several have, the one with all
    encoded columns is meant.

    Args:
        uri: Path or URI of the folder.
        like: The recipe.

    Returns:
        Paths or URIs of the node table, which is None if the recipe encodes no columns of nodes and
        there is none, and of the edge table. None if the recipe is one of several node types or
        relations, or the folder has no tables.

    Raises:
        ConfigError: If a table is missing, or there are several.
    """
    if [*like.tables] != [NODE, EDGE.text]:
        return None
    columns = {}
    for name in names_in(uri):
        if name[0] not in "_.":
            with suppress(ConfigError, GraphFormatError):  # something else than a table
                columns[f"{uri.rstrip('/')}/{name}"] = {
                    *TableFiles(f"{uri.rstrip('/')}/{name}").names
                }
    if not columns:
        return None
    edges = _table_like(uri, columns, "edges", like.relations[EDGE.text], ("src", "dst"))
    assert edges is not None, "an edge table is required"
    del columns[edges]
    return _table_like(uri, columns, "nodes", like.node_types[NODE], ("id",)), edges


def _table_like(
    uri: str,
    columns: Mapping[str, set[str]],
    what: str,
    recipe: TableRecipe,
    ids: Sequence[str],
) -> str | None:
    """Return the table that has the columns of a recipe; None if there is no need for one.

    Args:
        uri: The folder, for messages.
        columns: Names of the columns of each table.
        what: `nodes` or `edges`.
        recipe: Recipe of the table.
        ids: Columns of ids that it must have, by their names in a store.
    """
    needed = [recipe.inputs.get(name, name) for name in ids]
    encoded = dict.fromkeys(one.column for one in recipe.encodings)
    with_ids = [table for table, names in columns.items() if {*needed} <= names]
    found = [table for table in with_ids if {*encoded} <= columns[table]] or with_ids
    if len(found) == 1:
        return found[0]
    if not found and what == "nodes" and not encoded:
        return None
    names = [*needed, *encoded]
    raise ConfigError(
        f"{uri}: expected one table of {what}, with the columns {some(names, len(names))} of the "
        f"recipe (--like, or the run), got {some(found, len(found)) or 'none'}. "
        f"{'Keep one of them in the folder' if found else 'Add it'}, or name the tables: "
        "graphtheta partition --nodes, --edges and --like."
    )

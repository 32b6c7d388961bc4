"""Reader of relational databases in RelBench's form: one Parquet file for each table.

The Arrow metadata of a file holds, as JSON, `pkey_col` (the column of its primary key, or null),
`fkey_col_to_pkey_table` (the table that each foreign key refers to) and `time_col`. A table becomes
a node type, and a foreign key `k` the relation `f2p_k` from the rows that hold it to the rows that
it names. With reverse relations these are the graphs of RelBench's `make_pkey_fkey_graph`.

Source: Robinson, Ranjan, Hu, Huang et al., "RelBench: A Benchmark for Deep Learning on Relational
Databases", NeurIPS Datasets and Benchmarks, 2024.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.batches import CHUNK_ROWS
from graphtheta.data.convert import convert
from graphtheta.data.mapping import ColumnOptions, Kinds, Names, plan_nodes
from graphtheta.data.schema import refuse, whole
from graphtheta.data.types import Relation, edge_tables, node_tables
from graphtheta.datasets.files import TableFiles, names_in
from graphtheta.datasets.tables import FileSource, FileTable
from graphtheta.datasets.typed.options import options_by_type
from graphtheta.errors import GraphThetaError
from graphtheta.wording import counted

__all__ = ["Options", "read", "recognises"]

_log = logging.getLogger(__name__)

_SUFFIX = ".parquet"
_BLOCK = 1 << 16  # rows, a multiple of 8
_FOREIGN, _PRIMARY, _TIME = b"fkey_col_to_pkey_table", b"pkey_col", b"time_col"


class Options(TypedDict, total=False):
    """Names of columns, as `flights.distance`; see `graphtheta.data.mapping.ColumnOptions`."""

    features: str | Sequence[str] | None
    labels: Names | None
    splits: Names | None
    label_kinds: Kinds | None
    keep: str | Sequence[str] | None


@dataclass(frozen=True, slots=True)
class _Table:
    """Table of a database.

    Attributes:
        files: Its file.
        key: Column of the primary key; None if the rows are not referred to.
        foreign: Tables that the columns of foreign keys refer to.
        time: Column of the time of a row, if there is one.
    """

    files: TableFiles
    key: str | None
    foreign: Mapping[str, str]
    time: str | None


def recognises(uri: str) -> bool:
    """Return whether `uri` is a folder of Parquet files that record their keys."""
    first = next((name for name in names_in(uri) if name.endswith(_SUFFIX)), None)
    try:
        return first is not None and _FOREIGN in TableFiles(f"{uri}/{first}").metadata
    except GraphThetaError:
        return False


def read(uri: str, **columns: Unpack[Options]) -> FileSource:
    """Open a database.

    Only the keys, the named columns and the time are read. The time of a row becomes the column
    `time`, in seconds since 1970. An edge whose foreign key is null is left out, and so is one
    whose foreign key is not in the table that it refers to, which is counted and reported.

    A first pass looks up each foreign key, with the primary keys of one table in memory, and keeps
    a bit for each row.

    Args:
        uri: Folder with a file `<table>.parquet` for each table.
        columns: Names of columns of features, labels and splits.

    Raises:
        ConfigError: If there is no column of a name, or a name contains `-`.
        GraphFormatError: If a file is damaged, or its metadata refers to a missing table or column.
    """
    uri = uri.rstrip("/")
    tables = {
        name.removesuffix(_SUFFIX): _open(f"{uri}/{name}")
        for name in names_in(uri)
        if name.endswith(_SUFFIX)
    }
    options = options_by_type(
        cast(ColumnOptions, columns), {name: t.files.names for name, t in tables.items()}, {}
    )
    files, rows = {}, {}
    for name, table in tables.items():
        plan = plan_nodes(table.files.names, table.files.uri, **{**options[name], "id": table.key})
        time = {"time": table.time} if table.time else {}
        files[name] = FileTable(table.files, plan, time, list(table.foreign))
        rows[name] = _Rows(files[name])
    nodes = node_tables(rows)
    edges = {}
    for name, table in tables.items():
        for column, parent in table.foreign.items():
            if parent not in tables or tables[parent].key is None:
                expected = f"a table {parent!r} with a primary key"
                where = f"{table.files.uri}: {column}"
                raise refuse(where, expected, ", ".join(tables), "Add it, or correct the metadata.")
            edges[Relation(name, f"f2p_{column}", parent)] = _ForeignKey(
                rows[name], column, rows[parent]
            )
    if not edges:
        raise refuse(uri, "a foreign key in a table", "none", "Check the metadata of the files.")
    return FileSource(files, nodes, edge_tables(edges, rows))


def _open(uri: str) -> _Table:
    """Open a table, and check the names in its metadata."""
    files = TableFiles(uri)
    found: dict[bytes, Any] = {}
    for name in (_FOREIGN, _PRIMARY, _TIME):
        try:
            found[name] = json.loads(files.metadata.get(name, b"null"))
        except ValueError:
            where, got = f"{uri}: metadata {name.decode()}", repr(files.metadata[name])
            raise refuse(where, "JSON", got, "Correct it.") from None
    foreign = found[_FOREIGN] or {}
    if not isinstance(foreign, dict) or not all(isinstance(t, str) for t in foreign.values()):
        where = f"{uri}: metadata {_FOREIGN.decode()}"
        raise refuse(where, "names of tables by column", repr(foreign), "Correct it.")
    for column in (*foreign, found[_PRIMARY], found[_TIME]):
        if column is not None and column not in files.names:
            expected = f"columns among {', '.join(files.names)}"
            raise refuse(f"{uri}: metadata", expected, repr(column), "Correct it.")
    return _Table(files, found[_PRIMARY], foreign, found[_TIME])


class _Rows:
    """Node table of a table of the database: its columns, with ids and the time in seconds.

    Args:
        table: The table, without `id` if it has no primary key; the ids are the numbers of its rows
            then.
    """

    def __init__(self, table: FileTable) -> None:
        self.table, self.name, self.num_rows = table, table.name, table.num_rows
        known = {field.name: field for field in table.schema}
        self.schema = pa.schema([known.pop("id", pa.field("id", pa.int64())), *known.values()])
        if "time" in known and pa.types.is_temporal(known["time"].type):
            position = self.schema.get_field_index("time")
            self.schema = self.schema.set(position, pa.field("time", pa.int64()))

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        names = self.schema.names if columns is None else list(columns)
        read = [name for name in names if name in self.table.plan]
        for rows in self.table.chunks(start, stop, read) if read else _numbers(start, stop):
            found = {name: rows[name] for name in read}
            if "id" not in self.table.plan:
                found["id"] = pa.array(np.arange(start, start + rows.num_rows))
            if "time" in found:
                found["time"] = _seconds(found["time"])
            yield pa.table(
                [found[name] for name in names],
                schema=pa.schema([self.schema.field(name) for name in names]),
            )
            start += rows.num_rows


def _numbers(start: int, stop: int) -> Iterator[pa.Table]:
    """Yield tables with as many rows as [start, stop), in chunks."""
    for first in range(start, max(stop, start + 1), CHUNK_ROWS):
        yield pa.table({"id": np.arange(first, min(stop, first + CHUNK_ROWS))})


def _seconds(times: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_temporal(times.type):
        return times
    return times.cast(pa.timestamp("s"), safe=False).cast(pa.int64())


class _ForeignKey:
    """Edge table of a foreign key, with an edge for each row whose key is in the other table.

    Args:
        child: Table with the foreign key.
        column: Its column.
        parent: Table that it refers to.
    """

    def __init__(self, child: _Rows, column: str, parent: _Rows) -> None:
        self.name = f"{child.name}: {column}"
        self._files, self._column = child.table.files, column
        self._plan = {name: one for name, one in child.table.plan.items() if name == "id"}
        ids = [one.schema.field("id").type for one in (child, parent)]
        self.schema = pa.schema(list(zip(("src", "dst"), ids, strict=True)))
        known = pa.concat_tables(parent.chunks(0, parent.num_rows, ["id"]))["id"].combine_chunks()
        is_edge, unknown, first = np.zeros(child.num_rows, np.bool_), 0, 0
        for rows in self._files.stream(0, child.num_rows, {column: None}):
            keys = self._keys(rows)
            found = pc.is_in(keys, known, skip_nulls=True)
            is_edge[first : first + len(keys)] = found
            unknown += len(keys) - keys.null_count - found.true_count
            first += len(keys)
        self._bits = np.packbits(is_edge)
        per_block = np.add.reduceat(is_edge, np.arange(0, len(is_edge), _BLOCK), dtype=np.int64)
        self._before = np.cumsum([0, *per_block])  # edges before each block of rows
        self.num_rows = int(self._before[-1])
        if unknown:
            _log.warning(
                "%s: dropped %s that are not in the table of their foreign key.",
                *(self.name, counted(unknown, "value")),
            )

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        if start >= stop:
            yield schema.empty_table()
            return
        first, last = self._row(start), self._row(stop - 1) + 1
        of_id = [name for column in self._plan.values() for name in column.inputs]
        for rows in self._files.stream(first, last, dict.fromkeys([self._column, *of_id])):
            stop = first + rows.num_rows
            is_edge = pa.array(self._is_edge(first, stop))
            ends = {"dst": self._keys(rows)}
            ends["src"] = (
                convert(rows, self._plan, self.name, first)["id"]
                if self._plan
                else pa.array(np.arange(first, stop))
            )
            first = stop
            if is_edge.true_count:
                yield pa.table([ends[name].filter(is_edge) for name in names], schema=schema)

    def _keys(self, rows: pa.Table) -> pa.Array:
        """Return the foreign keys of some rows, with the type of the primary key."""
        keys, kind = whole(rows[self._column]), self.schema.field("dst").type
        if pa.types.is_floating(keys.type):  # as pandas writes integers with missing values
            keys = pc.if_else(pc.is_nan(keys), None, keys)
        try:
            return keys.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise refuse(self.name, f"{kind} keys", keys.type, "Convert the column.") from None

    def _is_edge(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Return whether rows [start, stop) have an edge."""
        bits = np.unpackbits(self._bits[start // 8 : -(-stop // 8)])
        return bits[start % 8 :][: stop - start].view(np.bool_)

    def _row(self, edge: int) -> int:
        """Return the row of an edge."""
        block = int(np.searchsorted(self._before, edge, side="right")) - 1
        first = block * _BLOCK
        rows = np.flatnonzero(self._is_edge(first, first + _BLOCK))
        return first + int(rows[edge - self._before[block]])

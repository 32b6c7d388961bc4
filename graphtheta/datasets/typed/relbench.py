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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.graph import Graph
from graphtheta.data.mapping import Column, ColumnOptions, Kinds, Names, plan_nodes
from graphtheta.data.schema import refuse, whole
from graphtheta.data.types import Relation
from graphtheta.datasets.files import TableFiles, names_in
from graphtheta.datasets.typed.options import options_by_type
from graphtheta.errors import GraphThetaError
from graphtheta.wording import counted

__all__ = ["Options", "read", "recognises"]

_log = logging.getLogger(__name__)

_SUFFIX = ".parquet"
_ID = "__id__"  # not the name of a user's column
_FOREIGN, _PRIMARY, _TIME = b"fkey_col_to_pkey_table", b"pkey_col", b"time_col"


class Options(TypedDict, total=False):
    """Names of columns, as `flights.distance`; see `graphtheta.data.mapping.ColumnOptions`."""

    features: str | Sequence[str] | None
    labels: Names | None
    splits: Names | None
    label_kinds: Kinds | None


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


def read(uri: str, **columns: Unpack[Options]) -> Graph:
    """Read a database into memory.

    Only the keys, the named columns and the time are read. The time of a row becomes the column
    `time`, in seconds since 1970. An edge whose foreign key is null is left out, and so is one
    whose foreign key is not in the table that it refers to, which is counted and reported.

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
    plans = {
        name: plan_nodes(table.files.names, table.files.uri, **{"id": table.key, **options[name]})
        for name, table in tables.items()
    }
    rows = {name: _read(table, plans[name]) for name, table in tables.items()}
    edges = {}
    for name, table in tables.items():
        for column, parent in table.foreign.items():
            where = f"{table.files.uri}: {column}"
            if parent not in tables or tables[parent].key is None:
                expected = f"a table {parent!r} with a primary key"
                raise refuse(where, expected, ", ".join(tables), "Add it, or correct the metadata.")
            children, parents = (_ids(tables[one], rows[one]) for one in (name, parent))
            keys = whole(rows[name][column])
            edges[Relation(name, f"f2p_{column}", parent)] = _edges(keys, children, parents, where)
    if not edges:
        raise refuse(uri, "a foreign key in a table", "none", "Check the metadata of the files.")
    nodes = {name: _nodes(table, plans[name], rows[name]) for name, table in tables.items()}
    named = {name: {**options[name], "id": _ID} for name in tables}
    return Graph.from_arrow(nodes, edges, columns=cast(Mapping[Any, ColumnOptions], named))


def _open(uri: str) -> _Table:
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


def _read(table: _Table, plan: Mapping[str, Column]) -> pa.Table:
    """Return the columns of a table that are needed, and at least one."""
    names = [name for column in plan.values() for name in column.inputs]
    names += [*table.foreign, *([table.time] if table.time else [])]
    return table.files.read(list(dict.fromkeys(names)) or table.files.names[:1])


def _ids(table: _Table, rows: pa.Table) -> pa.Array:
    """Return the primary keys of a table, or the numbers of its rows if it has none."""
    return pa.array(np.arange(rows.num_rows)) if table.key is None else whole(rows[table.key])


def _nodes(table: _Table, plan: Mapping[str, Column], rows: pa.Table) -> pa.Table:
    """Return the node table of a table, without its foreign keys."""
    inputs = [name for column in plan.values() if column.kind != "id" for name in column.inputs]
    columns = {name: rows[name] for name in inputs}
    if table.time is not None:
        time = whole(rows[table.time])
        if pa.types.is_temporal(time.type):
            time = time.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        columns["time"] = time
    return pa.table({_ID: _ids(table, rows), **columns})


def _edges(keys: pa.Array, children: pa.Array, parents: pa.Array, where: str) -> pa.Table:
    """Return the edges of a foreign key, from the rows that hold it to those that it names.

    Args:
        keys: Foreign key of each row.
        children: Ids of the rows.
        parents: Ids of the rows that they refer to.
        where: Name of the column in messages.
    """
    if pa.types.is_floating(keys.type):  # as pandas writes integers with missing values
        keys = pc.if_else(pc.is_nan(keys), None, keys)
    try:
        keys = keys.cast(parents.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise refuse(where, f"{parents.type} keys", keys.type, "Convert the column.") from None
    is_edge = pc.and_(pc.is_in(keys, parents), keys.is_valid())
    unknown = len(keys) - keys.null_count - (pc.sum(is_edge).as_py() or 0)
    if unknown:
        _log.warning(
            "%s: dropped %s that are not in the table of their foreign key.",
            *(where, counted(unknown, "value")),
        )
    return pa.table({"src": children.filter(is_edge), "dst": keys.filter(is_edge)})

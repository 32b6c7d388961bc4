"""Description of how a graph was read, for display before work on it begins."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from graphtheta.data.encode.describe import encoding_text
from graphtheta.data.encode.numeric import Number
from graphtheta.data.encode.recipe import encoding_of
from graphtheta.data.reverse import WithReverse
from graphtheta.data.schema import classes_of, is_list
from graphtheta.data.source import DenseSource, GraphSource
from graphtheta.data.sparse import is_sparse
from graphtheta.data.types import EdgeTable, NodeTable, qualified
from graphtheta.datasets.tables import FileSource
from graphtheta.wording import counted, some

__all__ = ["reading"]


def reading(source: GraphSource) -> list[tuple[str, str]]:
    """Return (name, value) rows: types of ids, what each column was read as, columns not read."""
    nodes, edges = source.node_tables, source.edge_tables
    schemas = [table.schema for table in nodes] or [edges[0].schema]
    kinds = {
        "text" if pa.types.is_string(schema.field(0).type) else "integers": 0 for schema in schemas
    }
    rows = [("ids", " and ".join(kinds))]
    given = source
    while isinstance(given, WithReverse | DenseSource):
        given = given.source
    summaries = {}
    if isinstance(given, FileSource):
        rows += given.files()
        summaries = given.summaries()
    tables: list[tuple[str, str, NodeTable | EdgeTable, int]] = [
        *(("node", table.name, table, len(nodes)) for table in nodes),
        *(("edge", table.relation.text, table, len(edges)) for table in edges),
    ]
    for kind, owner, table, count in tables:
        for field in table.schema:
            if field.name in ("id", "src", "dst"):
                continue
            name = f"{kind} {qualified(owner, field.name, count)}"
            rows.append((name, summaries.get(name) or _type(field)))
            rows += [(f"  {one.column}", encoding_text(one)) for one in encoding_of(field)]
    return rows + _fitted(tables) + _unscaled(tables)


def _fitted(tables: Iterable[tuple[str, str, NodeTable | EdgeTable, int]]) -> list[tuple[str, str]]:
    """Return a row for each table with encoders: the number of rows that they are fitted to."""
    found = []
    for kind, owner, table, count in tables:
        rows = {one.rows for field in table.schema for one in encoding_of(field) if one.rows}
        if rows:
            number = max(rows)
            what = f"all {number:,} rows" if number == table.num_rows else f"{number:,} rows"
            name = f"{kind} encodings"
            found.append((name if count == 1 else f"{name} of {owner}", f"fitted to {what}"))
    return found


def _unscaled(
    tables: Iterable[tuple[str, str, NodeTable | EdgeTable, int]],
) -> list[tuple[str, str]]:
    """Return a row that names the encoded columns of large numbers that are used as they are."""
    found = {
        qualified(owner, one.column, count): max(abs(one.low or 0), abs(one.high or 0))
        for _, owner, table, count in tables
        for field in table.schema
        for one in encoding_of(field)
        if isinstance(one.encoder, Number)
    }
    large = {name: size for name, size in found.items() if size > _LARGE}
    if not large:
        return []
    text = f"{some(large, len(large))}: used as they are, up to {max(large.values()):g}; the "
    return [
        ("hint", f"{text}encoding standard, as in NAME:standard, gives them the size of others")
    ]


_LARGE = 10
_NAMES = {"float": "float32", "double": "float64"}


def _type(field: pa.Field) -> str:
    if field.name.startswith("split:"):
        return "train, val, test or none"
    kind, classes = field.type, classes_of(field)
    text = _NAMES.get(str(kind), str(kind))
    if is_sparse(kind):
        text = f"{kind.width:,} of {_NAMES.get(str(kind.dtype), str(kind.dtype))}, stored sparse"
        if kind.value_type is None:
            text = f"{kind.width:,} of 0 and 1, stored sparse"
    if is_list(kind):
        text = f"{kind.list_size:,} of {_NAMES.get(str(kind.value_type), str(kind.value_type))}"
    return (
        f"{text}, {counted(len(classes), 'text')}: {some(classes, len(classes))}"
        if classes
        else text
    )

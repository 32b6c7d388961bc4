"""Node types and relations of a graph: a type is a range of keys.

Each node table is a node type, with a range of node keys; each edge table is a relation, with a
range of edge keys. A graph of one table of nodes and one of edges has the node type `node` and the
relation `node-to-node`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.errors import ConfigError

__all__ = [
    "EDGE",
    "NODE",
    "EdgeTable",
    "NodeTable",
    "Relation",
    "SourceTable",
    "Table",
    "edge_tables",
    "key_chunks",
    "node_tables",
    "position_of",
    "positions_of_keys",
    "qualified",
]


class Relation(NamedTuple):
    """Kind of edges: its name, and the node types of its sources and destinations."""

    source: str
    name: str
    destination: str

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """The relation as text: `source-name-destination`."""
        return "-".join(self)

    @classmethod
    def of(cls, given: str | Sequence[str]) -> Relation:
        """Return a relation that is given as text or as three names.

        Raises:
            ConfigError: If it does not have three parts, or one is empty or contains `-` or control
                characters.
        """
        names = given.split("-") if isinstance(given, str) else given
        if not isinstance(names, Sequence) or len(names) != 3:
            raise ConfigError(
                "relation: expected (source type, name, destination type), or a text such as "
                f"author-writes-paper, got {given!r}. Correct it."
            )
        for name in names:
            _check_name(name, f"relation {given!r}")
        return cls(*names)


NODE = "node"  # the node type of a graph without types
EDGE = Relation(NODE, "to", NODE)  # its relation


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


class _KeyedTable:
    """Table whose row i has the key `first_key` + i."""

    __slots__ = ()
    first_key: int
    table: SourceTable

    @property
    def where(self) -> str:
        """Name of the table in messages."""
        return self.table.name

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.table.num_rows

    @property
    def schema(self) -> pa.Schema:
        """Types of the columns."""
        return self.table.schema


@dataclass(frozen=True, slots=True)
class NodeTable(_KeyedTable):
    """Nodes of one type, with consecutive node keys.

    Attributes:
        name: Name of the type.
        first_key: Node key of the first row.
        table: The rows.
    """

    name: str
    first_key: int
    table: SourceTable


@dataclass(frozen=True, slots=True)
class EdgeTable(_KeyedTable):
    """Edges of one relation, with consecutive edge keys.

    Attributes:
        relation: The relation.
        first_key: Edge key of the first row.
        table: The rows.
    """

    relation: Relation
    first_key: int
    table: SourceTable


Table = TypeVar("Table", NodeTable, EdgeTable)


def node_tables(
    tables: Mapping[str, SourceTable] | Iterable[tuple[str, SourceTable]],
) -> tuple[NodeTable, ...]:
    """Return the node tables of a graph, with ranges of node keys in their order.

    Args:
        tables: Tables by the names of their types.

    Raises:
        ConfigError: If a name is empty, contains `-` or control characters, or occurs twice.
    """
    found: list[NodeTable] = []
    for name, table in tables.items() if isinstance(tables, Mapping) else tables:
        _check_name(name, table.name)
        for other in found:
            if other.name == name:
                raise ConfigError(
                    f"{table.name}: expected one table for each node type, got {name!r} for "
                    f"{other.where} too. Rename one, or join the tables."
                )
        found.append(NodeTable(name, _end(found), table))
    return tuple(found)


def edge_tables(
    tables: Mapping[Relation, SourceTable] | Iterable[tuple[Relation, SourceTable]],
    types: Iterable[str],
) -> tuple[EdgeTable, ...]:
    """Return the edge tables of a graph, with ranges of edge keys in their order.

    Args:
        tables: Tables by their relations.
        types: Names of the node types.

    Raises:
        ConfigError: If there is no table, a relation occurs twice, or a node type of it does not
            exist.
    """
    found: list[EdgeTable] = []
    known = list(types)
    for relation, table in tables.items() if isinstance(tables, Mapping) else tables:
        relation = Relation.of(relation)
        for name in (relation.source, relation.destination):
            if name not in known:
                raise ConfigError(
                    f"{table.name}: expected node types among {', '.join(known)}, got {name!r} in "
                    f"the relation {relation.text}. Correct it, or add a node table."
                )
        for other in found:
            if other.relation == relation:
                raise ConfigError(
                    f"{table.name}: expected one table for each relation, got {relation.text} for "
                    f"{other.where} too. Rename one, or join the tables."
                )
        found.append(EdgeTable(relation, _end(found), table))
    if not found:
        raise ConfigError("edges: expected at least one table, got none. Add one.")
    return tuple(found)


def key_chunks(
    tables: Sequence[Table], start: int, stop: int, columns: Sequence[str] | None = None
) -> Iterator[tuple[Table, int, pa.Table]]:
    """Yield (table, key of the first row, rows) of keys [start, stop) in chunks without overlap.

    A chunk has rows of one table, and at least one row.

    Args:
        tables: Tables in the order of their keys.
        start: First key.
        stop: Key after the last one.
        columns: Names of the columns to read. If None, all columns of each table.
    """
    for table in tables:
        first = max(start, table.first_key)
        last = min(stop, table.first_key + table.num_rows)
        if first >= last:
            continue
        for rows in table.table.chunks(first - table.first_key, last - table.first_key, columns):
            if rows.num_rows:
                yield table, first, rows
            first += rows.num_rows


def positions_of_keys(keys: NDArray[Any], first_keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of the type, or relation, of each key.

    Args:
        keys: (R,) keys.
        first_keys: (T,) first key of each type, ascending from 0.

    Shape:
        Returns (R,) int64.
    """
    if len(first_keys) == 1:
        return np.zeros(len(keys), np.int64)
    found: NDArray[np.int64] = np.searchsorted(first_keys, keys, side="right") - 1
    return found


def position_of(kind: str, name: str | None, names: Sequence[str]) -> int:
    """Return the position of a name; if it is None, that of the only one.

    Args:
        kind: What the names are of, for the message.
        name: The name.
        names: All names.

    Raises:
        ConfigError: If there is no such name, or several and `name` is None.
    """
    if name is None and len(names) == 1:
        return 0
    if name not in names:
        got = "none" if name is None else repr(name)
        raise ConfigError(
            f"{kind}: expected one of {', '.join(names)}, got {got}. Name one of these."
        )
    return names.index(name)


def qualified(owner: str, name: str, count: int) -> str:
    """Return the name of a column in a graph of `count` types: `owner.name` if there are several.

    Args:
        owner: Name of the node type, or text of the relation.
        name: Name of the column in its table.
        count: Number of node types, or of relations.
    """
    return name if count == 1 else f"{owner}.{name}"


def _check_name(name: str, where: str) -> None:
    if not isinstance(name, str) or not name or "-" in name or _has_controls(name):
        odd = "control characters" if _has_controls(str(name)) else "'-'"
        raise ConfigError(
            f"{where}: expected a name of a type without {odd}, got {name!r}. Rename the type."
        )


def _has_controls(name: str) -> bool:
    # Control characters, halves of pairs in UTF-16 (bytes that are not UTF-8), ends of lines.
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)


def _end(tables: Sequence[NodeTable] | Sequence[EdgeTable]) -> int:
    return tables[-1].first_key + tables[-1].num_rows if tables else 0

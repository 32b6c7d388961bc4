"""Estimates of the bytes of rows, and of the memory that building a part takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from graphtheta.data.sparse import is_sparse
from graphtheta.data.sparse import row_bytes as row_bytes_of_sparse
from graphtheta.data.types import EdgeTable, NodeTable

__all__ = ["copied_bytes", "mean_bytes", "part_bytes", "row_bytes"]


def copied_bytes(tables: Sequence[NodeTable | EdgeTable]) -> int:
    """Return an estimate of the mean bytes that a row takes while a part is built.

    Features are copied once, other columns twice.
    """
    return mean_bytes(tables, lambda schema: 2 * row_bytes(schema) - row_bytes(_wide(schema)))


def mean_bytes(
    tables: Sequence[NodeTable | EdgeTable], bytes_of: Callable[[pa.Schema], int]
) -> int:
    """Return the mean over all rows of some tables of the bytes of a row, by its columns."""
    rows = max(1, sum(table.num_rows for table in tables))
    return -(-sum(table.num_rows * bytes_of(table.schema) for table in tables) // rows)


def _wide(schema: pa.Schema) -> pa.Schema:
    wide = [field for field in schema if field.name in ("features", "attr")]
    return pa.schema([field for field in wide if not is_sparse(field.type)])


def row_bytes(schema: pa.Schema) -> int:
    """Return an estimate of the bytes of a row."""
    bits = 0
    for field in schema:
        column = field.type
        if is_sparse(column):
            bits += 8 * row_bytes_of_sparse(field)
            continue
        width, value = 1, column
        if pa.types.is_fixed_size_list(column):
            width, value = column.list_size, column.value_type
        bits += width * (value.bit_width if pa.types.is_primitive(value) else 192)
    return bits // 8


def part_bytes(
    num_nodes: int, edges: Any, replicas: Any, masters: Any, edge_row: int, node_row: int
) -> Any:
    """Return an estimate of the bytes that building a part takes; takes counts or arrays of counts.

    Args:
        num_nodes: Nodes of the graph, for a bit map and the positions of its members.
        edges: Edges of the part: records and sources, each twice (40 bytes), and their rows.
        replicas: Replicas of the part: edge counts, owners, new ids and local ids.
        masters: Masters of the part: their rows.
        edge_row: Bytes of all copies of a row of an edge table; see `copied_bytes`.
        node_row: The same of a node table.
    """
    rows = edges * edge_row + masters * node_row
    return edges * 40 + replicas * 96 + rows + num_nodes // 2

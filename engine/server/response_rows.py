"""Rows of responses: columns of a part by position, in record batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import whole
from graphtheta.engine.server.part import Edges, OpenPart
from graphtheta.engine.wire.chunks import ResponseChunk
from graphtheta.engine.wire.protocol import COLUMN
from graphtheta.errors import ConfigError

__all__ = [
    "CHUNK_BYTES",
    "batch",
    "check_columns",
    "edge_table",
    "row_bytes",
    "spans",
    "take_rows",
]

CHUNK_BYTES = 1 << 21  # approximate size of a chunk of a response


def check_columns(where: str, known: Iterable[str], names: list[str]) -> None:
    """Raise ConfigError for names of columns that are unknown or repeated."""
    known = list(known)
    if set(names) - set(known) or len(set(names)) < len(names):
        raise ConfigError(
            f"{where}: expected some of {', '.join(known) or 'no columns'}, each once, got "
            f"{', '.join(names)}. Name some of these."
        )


def edge_table(
    part: OpenPart,
    rows: NDArray[np.int64],
    edges: Edges,
    table: pa.Table,
    position: NDArray[np.int64],
) -> pa.RecordBatch:
    """Return edges of the rows of a request, with the rows of a table of columns."""
    node, node_key, edge_key = part.describe(edges)
    columns: dict[str, Any] = {"node": node, "node_key": node_key, "edge_key": edge_key}
    if edges.rank is not None:
        columns |= {"rank": edges.rank, "draw": edges.draw}
    return batch(rows[edges.row], **columns, **_take(table, position))


def take_rows(
    rows: NDArray[np.int64], *tables: tuple[pa.Table, NDArray[np.int64]]
) -> Iterator[ResponseChunk]:
    """Yield rows of tables by position, with the rows of the request.

    Args:
        rows: (R,) rows of the request.
        tables: Tables, each with the (R,) positions in it.
    """
    for span in spans(len(rows), 4 + sum(row_bytes(table) for table, _ in tables)):
        columns: dict[str, pa.Array] = {}
        for table, positions in tables:
            columns |= _take(table, positions[span])
        yield ResponseChunk(batch(rows[span], **columns))


def batch(rows: NDArray[np.int64], **columns: Any) -> pa.RecordBatch:
    """Return a record batch with the rows of the request."""
    return pa.record_batch({"row": rows.astype(np.int32), **columns})


def _take(table: pa.Table, positions: NDArray[np.int64]) -> dict[str, pa.Array]:
    taken = pa.array(positions)
    return {COLUMN + name: whole(table[name]).take(taken) for name in table.column_names}


def spans(num_rows: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices of the rows that fit into a chunk."""
    size = max(1, CHUNK_BYTES // row_bytes)
    for first in range(0, num_rows, size):
        yield slice(first, first + size)


def row_bytes(table: pa.Table) -> int:
    """Return the mean number of bytes of a row."""
    return int(table.nbytes // max(1, table.num_rows))

"""Chunks of tables, of a bounded size, so that no reader needs a whole table in memory.

A chunk has at most `CHUNK_ROWS` rows and about `CHUNK_BYTES` bytes. A range without rows is one
empty chunk, so that a reader always gets the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

__all__ = ["CHUNK_BYTES", "CHUNK_ROWS", "regroup_batches", "rows_per_chunk", "table_chunks"]

CHUNK_ROWS = 1 << 20
CHUNK_BYTES = 128 << 20


def rows_per_chunk(row_bytes: float) -> int:
    """Return the number of rows in a chunk, at least 1, given the bytes of a row."""
    return max(1, min(CHUNK_ROWS, int(CHUNK_BYTES / max(row_bytes, 1))))


def table_chunks(table: pa.Table, start: int = 0, stop: int | None = None) -> Iterator[pa.Table]:
    """Yield rows [start, stop) of a table in chunks of about equal size, without a copy."""
    rows = table.slice(start, None if stop is None else max(0, stop - start))
    max_rows = rows_per_chunk(rows.nbytes / max(rows.num_rows, 1))
    step = max(1, -(-rows.num_rows // max(1, -(-rows.num_rows // max_rows))))
    for first in range(0, max(rows.num_rows, 1), step):
        yield rows.slice(first, step)


def regroup_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows of batches as chunks: large batches are split, small ones are joined.

    Batches of a quarter of a chunk or more are not joined, because that would copy them.
    """
    pending: list[pa.Table] = []
    rows = size = 0
    for batch in batches:
        for piece in table_chunks(pa.Table.from_batches([batch])):
            if not piece.num_rows:
                continue
            full = rows + piece.num_rows > CHUNK_ROWS or size + piece.nbytes > CHUNK_BYTES
            if pending and (full or pending[0].schema != piece.schema):
                yield pa.concat_tables(pending)
                pending, rows, size = [], 0, 0
            pending.append(piece)
            rows, size = rows + piece.num_rows, size + piece.nbytes
            if rows >= CHUNK_ROWS // 4 or size >= CHUNK_BYTES // 4:
                yield pa.concat_tables(pending)
                pending, rows, size = [], 0, 0
    if pending:
        yield pa.concat_tables(pending)

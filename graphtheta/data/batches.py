"""Tables in chunks of a bounded size, so that no reader ever holds a whole one.

A chunk has at most `CHUNK_ROWS` rows, and of wide rows as few as make `CHUNK_BYTES`. A range
without rows is one empty chunk, so that whoever reads a range sees its columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

__all__ = ["CHUNK_BYTES", "CHUNK_ROWS", "regrouped", "rows_for", "sliced"]

CHUNK_ROWS = 1 << 20
CHUNK_BYTES = 128 << 20


def rows_for(row_bytes: float) -> int:
    """Return how many rows of a size make a chunk; at least one."""
    return max(1, min(CHUNK_ROWS, int(CHUNK_BYTES / max(row_bytes, 1))))


def sliced(table: pa.Table, start: int = 0, stop: int | None = None) -> Iterator[pa.Table]:
    """Yield rows [start, stop) of a table as chunks of about one size, without a copy."""
    rows = table.slice(start, None if stop is None else max(0, stop - start))
    most = rows_for(rows.nbytes / max(rows.num_rows, 1))
    step = max(1, -(-rows.num_rows // max(1, -(-rows.num_rows // most))))
    for first in range(0, max(rows.num_rows, 1), step):
        yield rows.slice(first, step)


def regrouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows of consecutive batches as chunks: large ones cut, small ones together.

    Batches of a quarter of a chunk and more are passed on as they are: joining them would copy.
    """
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        for piece in sliced(pa.Table.from_batches([batch])):
            if not piece.num_rows:
                continue
            full = rows + piece.num_rows > CHUNK_ROWS or size + piece.nbytes > CHUNK_BYTES
            if held and (full or held[0].schema != piece.schema):
                yield pa.concat_tables(held)
                held, rows, size = [], 0, 0
            held.append(piece)
            rows, size = rows + piece.num_rows, size + piece.nbytes
            if rows >= CHUNK_ROWS // 4 or size >= CHUNK_BYTES // 4:
                yield pa.concat_tables(held)
                held, rows, size = [], 0, 0
    if held:
        yield pa.concat_tables(held)

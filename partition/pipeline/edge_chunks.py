"""Chunks of the ends of a source's edges, and of the columns of the edges of a segment."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from graphtheta.data.schema import validate_edges
from graphtheta.data.source import GraphSource
from graphtheta.data.types import EdgeTable, key_chunks
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.ooc.edge_file import EdgeFile, Segment

__all__ = ["end_chunks", "segment_chunks"]


def end_chunks(
    source: GraphSource, first: int, last: int, resources: Resources
) -> Iterator[tuple[EdgeTable, int, pa.Table]]:
    """Yield (table, first edge key, rows of `src` and `dst`) of edges [first, last), validated.

    Raises:
        GraphFormatError: If an id is null, or has a wrong type.
    """
    chunks = key_chunks(source.edge_tables, first, last, ["src", "dst"])
    for table, key, chunk in resources.prefetch(chunks):
        validate_edges(chunk, table.where, key - table.first_key)
        yield table, key, chunk


def segment_chunks(
    source: GraphSource,
    edges: EdgeFile,
    segment: Segment,
    direction: int,
    columns: Callable[[EdgeTable], Sequence[str]],
) -> Iterator[tuple[int, int, int, pa.Table | None]]:
    """Yield (relation, first, last, columns) of consecutive edges of one relation.

    These are the position of the relation, the range of the edges among all edges, and a row of
    columns for each of them.

    Args:
        source: The graph.
        edges: Its edges as node keys.
        segment: Segment to read.
        direction: 0 for edges of the input, 1 for their reverses, which have the same columns.
        columns: Returns the names of the columns to read from a table. If empty, the yielded
            columns are None.
    """
    for relation, table in enumerate(source.edge_tables):
        offset = direction * source.num_edges + table.first_key  # edge key minus row of the table
        first = _position(edges, segment, offset)
        end = _position(edges, segment, offset + table.num_rows)
        names = columns(table)
        if not names:
            yield from ((relation, *bounds, None) for bounds in chunk_ranges(first, end))
            continue
        if first == end:
            continue
        row = int(edges.keys(first, first + 1)[0]) - offset
        stop = int(edges.keys(end - 1, end)[0]) - offset + 1
        for chunk in table.table.chunks(row, stop, names):
            last, rows = min(end, first + chunk.num_rows), chunk
            if segment.keyed:
                keys = edges.keys(first, last)
                last = first + int(np.searchsorted(keys, offset + row + chunk.num_rows))
                rows = rows.take(pa.array(keys[: last - first] - offset - row))
            if first < last:
                yield relation, first, last, rows
            first = last
            row += chunk.num_rows


def _position(edges: EdgeFile, segment: Segment, key: int) -> int:
    """Return the position among all edges of the first edge of a segment from an edge key on."""
    if segment.keyed:
        positions = range(segment.first, segment.last)
        return segment.first + bisect_left(
            positions, key, key=lambda position: int(edges.keys(position, position + 1)[0])
        )
    return min(max(segment.first, segment.first + key - segment.first_key), segment.last)

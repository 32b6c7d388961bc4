"""Chunks of the ends of a source's edges, and of the columns of the edges of a segment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from graphtheta.data.schema import validate_edges
from graphtheta.data.source import GraphSource
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.ooc.edge_file import EdgeFile, Segment

__all__ = ["end_chunks", "segment_chunks"]


def end_chunks(
    source: GraphSource, first: int, last: int, resources: Resources
) -> Iterator[tuple[int, pa.Table]]:
    """Yield (first row, table of `src` and `dst`) of edges [first, last), validated.

    Raises:
        GraphFormatError: If an id is null, or has a wrong type.
    """
    table = source.edge_table
    for chunk in resources.prefetch(table.chunks(first, last, ["src", "dst"])):
        validate_edges(chunk, table.name, first)
        yield first, chunk
        first += chunk.num_rows


def segment_chunks(
    source: GraphSource, edges: EdgeFile, segment: Segment, direction: int, columns: Sequence[str]
) -> Iterator[tuple[int, int, pa.Table | None]]:
    """Yield (first, last, columns) of consecutive edges: their range among all edges, and a row of
    columns for each of them.

    Args:
        source: The graph.
        edges: Its edges as node keys.
        segment: Segment to read.
        direction: 0 for edges of the input, 1 for their reverses, which have the same columns.
        columns: Names of the columns to read. If empty, the yielded columns are None.
    """
    if not columns:
        yield from ((*bounds, None) for bounds in chunk_ranges(segment.first, segment.last))
        return
    if not segment.num_edges:
        return
    offset = direction * source.num_edges  # edge key minus row of the source
    end = segment.last
    row = int(edges.keys(segment.first, segment.first + 1)[0]) - offset
    stop = int(edges.keys(end - 1, end)[0]) - offset + 1
    first = segment.first
    for chunk in source.edge_table.chunks(row, stop, columns):
        last, table = min(end, first + chunk.num_rows), chunk
        if segment.keyed:
            keys = edges.keys(first, last)
            last = first + int(np.searchsorted(keys, offset + row + chunk.num_rows))
            table = table.take(pa.array(keys[: last - first] - offset - row))
        if first < last:
            yield first, last, table
        first = last
        row += chunk.num_rows

"""Rows of a source as one table."""

from __future__ import annotations

import pyarrow as pa

from graphtheta.data.source import GraphSource


def node_rows(source: GraphSource, start: int, stop: int) -> pa.Table:
    return pa.concat_tables(source.node_tables[0].table.chunks(start, stop))


def edge_rows(source: GraphSource, start: int, stop: int) -> pa.Table:
    return pa.concat_tables(source.edge_tables[0].table.chunks(start, stop))

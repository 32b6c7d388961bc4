"""GraphSource: what a graph is built from, read by ranges of rows and in chunks of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

__all__ = ["GraphSource"]


class GraphSource(Protocol):
    """A node table and an edge table that are read by ranges of rows.

    Row i of the node table is node_key i, row j of the edge table is edge_key j, whoever reads.
    `graphtheta.Graph` (in memory) and `graphtheta.datasets.tables.TableSource` (files) are two.
    """

    @property
    def num_nodes(self) -> int | None:
        """Rows of the node table; None if there is none: the nodes are the edges' sorted ids."""

    @property
    def num_edges(self) -> int:
        """Rows of the edge table."""

    @property
    def keyed(self) -> bool:
        """Whether `src` and `dst` are node keys; otherwise they are original ids."""

    def node_chunks(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield rows [start, stop) of the node table, in order, in chunks.

        Columns are `id` (int64 or string), and where there are such: `features`, `label:<name>`,
        `split:<name>` and others. A chunk has at most 2^20 rows, and of wide rows as few as make
        128 MiB; there is never more than one in memory, so let go of it before the next. A range
        without rows gives one chunk without rows. Not called without a node table.

        Raises:
            GraphFormatError: If the rows cannot be read as such columns.
        """

    def edge_chunks(self, start: int, stop: int, *, ends_only: bool = False) -> Iterator[pa.Table]:
        """Yield rows [start, stop) of the edge table, in order, in chunks as of nodes.

        Columns are `src` and `dst` (int64 node keys, or original ids of the type of `id`), and the
        edge columns: `attr`, `type`, `weight`, `label:<name>`, `split:<name>` and others.

        Args:
            start: First row.
            stop: The row after the last.
            ends_only: Yield `src` and `dst` alone; nothing else is read.

        Raises:
            GraphFormatError: If the rows cannot be read as such columns.
        """

    def node_rows(self, start: int, stop: int) -> pa.Table:
        """Return what `node_chunks` yields, at once."""

    def edge_rows(self, start: int, stop: int) -> pa.Table:
        """Return what `edge_chunks` yields, at once."""

    def digest(self) -> str:
        """Return the xxh3 of the content: the key under which a partitioned copy is cached."""

"""GraphSource: what a graph is built from, read by row ranges so that no rank reads the whole."""

from __future__ import annotations

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

    def node_rows(self, start: int, stop: int) -> pa.Table:
        """Return rows [start, stop) of the node table.

        Columns are `id` (int64 or string), and where there are such: `features`, `label:<name>`,
        `split:<name>` and others. An empty range has them all too. Not called without a node table.

        Raises:
            GraphFormatError: If the rows cannot be read as such columns.
        """

    def edge_rows(self, start: int, stop: int) -> pa.Table:
        """Return rows [start, stop) of the edge table.

        Columns are `src` and `dst` (int64 node keys, or original ids of the type of `id`), and the
        edge columns: `attr`, `type`, `weight`, `label:<name>`, `split:<name>` and others.

        Raises:
            GraphFormatError: If the rows cannot be read as such columns.
        """

    def digest(self) -> str:
        """Return the xxh3 of the content: the key under which a partitioned copy is cached."""

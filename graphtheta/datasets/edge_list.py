"""Reader of edge lists: one file of edges in a table format, without a node table."""

from __future__ import annotations

from typing import Unpack

from graphtheta.data.mapping import EdgeListOptions
from graphtheta.datasets.files import SUFFIXES, suffix
from graphtheta.datasets.tables import TableSource

__all__ = ["read", "recognises"]


def recognises(uri: str) -> bool:
    """Return whether the suffix of `uri` is that of a table format."""
    return suffix(uri) in SUFFIXES


def read(uri: str, **columns: Unpack[EdgeListOptions]) -> TableSource:
    """Open an edge list, with the options of `TableSource`.

    The nodes are the sorted distinct ids of the edges. In a CSV file without a header line, the
    first two columns are source and destination.

    Raises:
        ConfigError: If the file or a named column does not exist.
        GraphFormatError: If the file cannot be read.
    """
    return TableSource(None, uri, **columns)

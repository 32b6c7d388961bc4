"""Edge lists: one file of edges, CSV, pairs of ids or another format, without a node table."""

from __future__ import annotations

from collections.abc import Sequence

from graphtheta.datasets.files import SUFFIXES, suffix
from graphtheta.datasets.tables import TableSource

__all__ = ["read", "recognises"]


def recognises(uri: str) -> bool:
    """Return whether `uri` names a file of a table format."""
    return suffix(uri) in SUFFIXES


def read(
    uri: str,
    *,
    src: str = "src",
    dst: str = "dst",
    edge_features: str | Sequence[str] | None = None,
    edge_type: str | None = None,
    edge_weight: str | None = None,
) -> TableSource:
    """Open an edge list, with options as for `TableSource`.

    Its nodes are the sorted distinct ids of its edges. Of a CSV file without a header
    line the first two columns are source and destination.

    Raises:
        ConfigError: If the file or a named column does not exist.
        GraphFormatError: If it cannot be read.
    """
    return TableSource(
        None,
        uri,
        src=src,
        dst=dst,
        edge_features=edge_features,
        edge_type=edge_type,
        edge_weight=edge_weight,
    )

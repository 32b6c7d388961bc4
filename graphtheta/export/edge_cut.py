"""Functions of formats in which every edge is in the part of its destination, and only there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import ConfigError
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy

__all__ = ["destinations", "new_ids", "refuse_vertex_cut"]


def refuse_vertex_cut(store: Store, format: str, instead: str = "") -> None:
    """Raise an error unless every edge of a store is in the part of its destination.

    Args:
        store: The store.
        format: Name of the format in the message.
        instead: Alternative for the message.

    Raises:
        ConfigError: If the store is a vertex-cut.
    """
    if store.manifest.cut != "edge":
        raise ConfigError(
            f"export {format}: expected an edge-cut, since this format has every edge in the part "
            f"of its destination, got {store.path} by {store.manifest.method}, a vertex-cut. "
            f"Partition with --method kaminpar{instead}."
        )


def destinations(part: PartTables) -> NDArray[np.int64]:
    """Return the local id of the destination of each edge, in CSC order.

    Shape:
        (E,) int64.
    """
    in_degree = np.diff(column_numpy(part.in_indptr, "indptr"))
    return np.repeat(np.arange(part.num_replicas, dtype=np.int64), in_degree)


def new_ids(store: Store, part: PartTables) -> NDArray[np.int64]:
    """Return the new id of each replica of a part.

    Shape:
        (L,) int64.
    """
    first = store.book.first_new_id[column_numpy(part.replicas, "owner")]
    ids: NDArray[np.int64] = first + column_numpy(part.replicas, "owner_local")
    return ids

"""What forms have in common whose parts hold an edge with its destination, and nowhere else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import ConfigError
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy

__all__ = ["destinations", "new_ids", "refuse_vertex_cut"]


def refuse_vertex_cut(store: Store, form: str, instead: str = "") -> None:
    """Refuse a store whose edges are not all with their destinations.

    Args:
        store: The store.
        form: Names the form in the message.
        instead: What else would do.

    Raises:
        ConfigError: If it is a vertex-cut.
    """
    if store.manifest.cut != "edge":
        raise ConfigError(
            f"export {form}: expected an edge-cut, since this form keeps every edge in the part of "
            f"its destination, got {store.path} by {store.manifest.method}, a vertex-cut. "
            f"Partition with --method kaminpar{instead}."
        )


def destinations(part: PartTables) -> NDArray[np.int64]:
    """Return the local id of each edge's destination, in CSC order.

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

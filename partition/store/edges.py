"""Read all edges of a store into memory, for partitioners and community detection."""

from __future__ import annotations

import numpy as np

from graphtheta.partition.core.stream import EdgesInMemory
from graphtheta.partition.ooc.edge_file import key_dtype
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy

__all__ = ["stored_edges"]


def stored_edges(store: Store) -> EdgesInMemory:
    """Return all edges of a store in memory, part after part; takes 8 or 16 bytes for each edge.

    The edges are not in the order of the edge keys: use them only where the order does not matter.

    Raises:
        StoreError: If a part is missing or damaged.
    """
    dtype = key_dtype(store.manifest.num_nodes)
    src = np.empty(store.manifest.num_edges, dtype)
    dst = np.empty_like(src)
    first = 0
    for index in range(store.num_parts):
        part = store.part(index)
        last = first + part.num_edges
        keys = column_numpy(part.replicas, "node_key").astype(dtype)
        src[first:last] = keys[column_numpy(part.in_edges, "src")]
        dst[first:last] = np.repeat(keys, np.diff(column_numpy(part.in_indptr, "indptr")))
        first = last
    return EdgesInMemory(store.manifest.num_nodes, src, dst)

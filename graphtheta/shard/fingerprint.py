"""Fingerprint of a graph's content, to notice that a run is continued on another graph."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import xxhash

from graphtheta.shard.shard import Shard

__all__ = ["graph_fingerprint"]

_ROWS = 256  # of each node type


def graph_fingerprint(shard: Shard) -> str:
    """Return a hash of the ids, columns and degrees of some nodes of each type; collective.

    At most 256 nodes of a type are read, spread evenly over its keys, so that it costs little on
    graphs of any size. It depends on the graph and not on its partitioning or the workers, since it
    is the sum of a hash of each node.

    Communication:
        8 bytes per worker.
    """
    total = 0
    degrees = shard.local.masters.select(["in_degree", "out_degree"])
    for of_type, table in zip(shard.manifest.node_types, shard.local.node_columns, strict=True):
        masters = shard.masters_of(of_type.name)
        keys = shard.node_key_L[masters] - of_type.first_key
        rows = np.flatnonzero(keys % -(-max(1, of_type.count) // _ROWS) == 0)
        columns = table.select(sorted(table.column_names)).take(pa.array(rows)).to_pylist()
        counts = degrees.take(pa.array(masters[rows])).to_pylist()
        for node in zip(keys[rows].tolist(), counts, columns, strict=True):
            total += xxhash.xxh3_64_intdigest(repr((of_type.name, *node)).encode())
    mine = np.array([total % 2**64], np.uint64).view(np.int64)
    sums = shard.comm.all_gather(mine, stage="fingerprint")
    return f"{sum(int(each.view(np.uint64)[0]) for each in sums) % 2**64:016x}"

"""Which nodes each part holds an end of an edge of, and how many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.array_file import read_arrays, write_arrays
from graphtheta.partition.ooc.bitmap import BitMap, Ranks, rank_of
from graphtheta.partition.ooc.edge_file import key_type
from graphtheta.partition.ooc.record_spill import RecordReader
from graphtheta.partition.ooc.thread_buffers import ThreadBuffers

__all__ = ["find_part_nodes", "own_parts", "part_nodes"]


def own_parts(num_parts: int, rank: int, size: int) -> range:
    """Return the parts that a rank builds: consecutive ones, shared out evenly."""
    first, last = (-(-num_parts * (rank + i) // size) for i in (0, 1))
    return range(first, last)


def find_part_nodes(
    edges: RecordReader, num_nodes: int, num_parts: int, folder: Path, resources: Resources
) -> None:
    """Write the sorted node keys of each part's edges, with their in- and out-edges; collective.

    Memory, for each thread: the records of a part, 3 bits a node of the graph, and 8 bytes for each
    node held.
    """
    comm = resources.comm
    parts = own_parts(num_parts, comm.rank, comm.size)
    workspace = ThreadBuffers()
    with resources.progress.phase("find replicas", len(parts), "parts") as advance:

        def find(part: int) -> None:
            records = edges.read(part, workspace)
            bits = BitMap(num_nodes)
            bits.add_pairs(records["src"], records["dst"])
            ranks = Ranks(bits)
            counts = np.zeros((2, ranks.count), np.int32 if len(records) < 2**31 else np.int64)
            for end, count in zip(("dst", "src"), counts, strict=True):
                _count(records[end], ranks.table, count)
            write_arrays(
                _file(folder, part),
                key=bits.members().astype(key_type(num_nodes)),
                in_count=counts[0],
                out_count=counts[1],
            )
            advance(1)

        resources.map(find, parts)
    comm.barrier(stage="find replicas")


def part_nodes(folder: Path, part: int) -> dict[str, NDArray[Any]]:
    """Return the nodes of a part's edges, memory-mapped.

    Shape:
        `key`: (R,) int32 or int64 node keys, ascending. `in_count` and `out_count`: (R,) int32 or
        int64, their in-edges and out-edges in the part.
    """
    return read_arrays(_file(folder, part))


def _file(folder: Path, part: int) -> Path:
    return folder / f"held-{part:05d}.arrow"


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _count(
    keys: NDArray[Any], table: NDArray[np.uint64], counts: NDArray[Any]
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(keys.shape[0])):
        counts[rank_of(table, np.uint64(keys[i]))] += 1

"""Nodes that are an endpoint of an edge of a part, and the number of their edges there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.array_file import read_arrays, write_arrays
from graphtheta.partition.ooc.bitmap import BitMap, MemberPositions, member_position
from graphtheta.partition.ooc.edge_file import key_dtype
from graphtheta.partition.ooc.record_spill import RecordReader
from graphtheta.partition.ooc.thread_buffers import ThreadBuffers

__all__ = ["KeySlices", "find_part_nodes", "own_parts", "part_nodes"]


def own_parts(num_parts: int, rank: int, size: int) -> range:
    """Return the parts that a rank builds: its even, consecutive share of all parts."""
    first, last = (-(-num_parts * (rank + i) // size) for i in (0, 1))
    return range(first, last)


def find_part_nodes(
    edges: RecordReader, num_nodes: int, num_parts: int, folder: Path, resources: Resources
) -> None:
    """Write the nodes of each part's edges and their edge counts, to be read by `part_nodes`.

    Collective. Memory of each thread: the records of a part, 3 bits for each node of the graph, and
    8 bytes for each node of the part.
    """
    comm = resources.comm
    parts = own_parts(num_parts, comm.rank, comm.size)
    buffers = ThreadBuffers()
    with resources.progress.phase("find replicas", len(parts), "parts") as advance:

        def find(part: int) -> None:
            records = edges.read(part, buffers)
            bits = BitMap(num_nodes)
            bits.add_pairs(records["src"], records["dst"])
            positions = MemberPositions(bits)
            counts = np.zeros((2, positions.count), np.int32 if len(records) < 2**31 else np.int64)
            for end, count in zip(("dst", "src"), counts, strict=True):
                _count(records[end], positions.table, count)
            write_arrays(
                _file(folder, part),
                key=bits.members().astype(key_dtype(num_nodes)),
                in_count=counts[0],
                out_count=counts[1],
            )
            advance(1)

        resources.map(find, parts)
    comm.barrier(stage="find replicas")


def part_nodes(folder: Path, part: int) -> dict[str, NDArray[Any]]:
    """Return the nodes of a part's edges, memory-mapped.

    Returns:
        `key`: node keys, ascending; `in_count` and `out_count`: number of their in-edges and
        out-edges in the part.

    Shape:
        (R,) int32 or int64.
    """
    return read_arrays(_file(folder, part))


class KeySlices:
    """Cursor over the sorted node keys of all parts: yields the slice of each for a range of keys.

    Args:
        keys_of: Returns the sorted node keys of a part. It is called again for each range, because
            the files of all parts together may exceed the limit of open files.
        num_parts: Number of parts (P).
        first: Node key at which the first range begins.
    """

    def __init__(self, keys_of: Callable[[int], NDArray[Any]], num_parts: int, first: int) -> None:
        self._keys_of = keys_of
        self._starts = [int(np.searchsorted(keys_of(part), first)) for part in range(num_parts)]

    def advance(self, stop: int) -> list[slice]:
        """Return the slice of each part from the last call's end to the node key `stop`."""
        slices = []
        for part, start in enumerate(self._starts):
            keys = self._keys_of(part)[start:]
            slices.append(slice(start, start + int(np.searchsorted(keys, stop))))
        self._starts = [of_part.stop for of_part in slices]
        return slices


def _file(folder: Path, part: int) -> Path:
    return folder / f"part-nodes-{part:05d}.arrow"


@jit
def _count(keys: NDArray[Any], table: NDArray[np.uint64], counts: NDArray[Any]) -> None:
    for i in range(np.uint64(keys.shape[0])):
        counts[member_position(table, np.uint64(keys[i]))] += 1

"""The order of each part's masters, and word to other parts about the mirrors that it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.errors import PartitionError
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.array_file import read_arrays, write_arrays
from graphtheta.partition.ooc.bitmap import BitMap, Ranks, rank_of
from graphtheta.partition.ooc.edge_file import key_type
from graphtheta.partition.ooc.node_file import NodeFile
from graphtheta.partition.ooc.record_spill import RecordReader
from graphtheta.partition.ooc.spill import SpillReader, SpillWriter, bucket_order
from graphtheta.partition.ooc.thread_buffers import ThreadBuffers
from graphtheta.partition.pipeline.masters import NODES_SPILL, OWNERS
from graphtheta.partition.pipeline.part_nodes import own_parts, part_nodes
from graphtheta.partition.store.part import ROLE_IN, ROLE_OUT
from graphtheta.partition.store.quality import PartCounts

__all__ = [
    "LOCALS",
    "MIRRORS_SPILL",
    "Replicas",
    "local_ids",
    "number_masters",
    "order_masters",
    "replicas_of",
]

MIRRORS_SPILL = "mirrors"
LOCALS = "locals"

_INT32_LIMIT = 2**31
_BLOCK = 1 << 22
_POWERS = 65  # of two that a degree may have


@dataclass(frozen=True, slots=True)
class Replicas:
    """The nodes of one part, by node key.

    Attributes:
        keys: Node keys, ascending.
        in_count, out_count: Their edges in this part.
        is_master: Whether this part owns them.

    Shape:
        All (L,): int32 or int64; int32 or int64; bool.
    """

    keys: NDArray[Any]
    in_count: NDArray[Any]
    out_count: NDArray[Any]
    is_master: NDArray[np.bool_]

    def ranks(self, num_nodes: int) -> Ranks:
        """Return the places of node keys in `keys`."""
        bits = BitMap(num_nodes)
        bits.add(self.keys)
        return Ranks(bits)


def replicas_of(part: int, nodes: SpillReader, folder: Path, num_nodes: int) -> Replicas:
    """Return a part's nodes: those of its edges, and those that it owns."""
    slices = [as_numpy(rows.column(0)) for _, rows in nodes.read(part, ("node_key",))]
    kind = key_type(num_nodes)
    masters = np.concatenate([np.empty(0, kind), *(keys.astype(kind) for keys in slices)])
    held = part_nodes(folder, part)
    replicas = Replicas(*_merge(held["key"], held["in_count"], held["out_count"], masters))
    if len(replicas.keys) >= _INT32_LIMIT:
        raise PartitionError(
            f"partition: expected less than 2^31 replicas in a part, got {len(replicas.keys):,} in "
            f"part {part}. Use more parts."
        )
    return replicas


def order_masters(
    edges: RecordReader, num_nodes: int, num_parts: int, folder: Path, resources: Resources
) -> PartCounts:
    """Write each part's masters' local ids, and the spill of mirrors by owner; collective.

    Interior masters, all of whose in-edges here come from masters, are first. Within each half
    nodes come by the power of two of their degree, descending, so that rows that are read often
    are together (14 % off the time of a sum over the in-edges of RMAT), and then by node key, which
    keeps whatever order the user's nodes have. A row of the spill is `node_key` and `role` of a
    mirror, a chunk is a part.

    Returns:
        The counts of all parts.
    """
    comm = resources.comm
    parts = own_parts(num_parts, comm.rank, comm.size)
    nodes, workspace = SpillReader(folder, NODES_SPILL), ThreadBuffers()
    owners = NodeFile(folder, OWNERS, num_nodes)
    counts = PartCounts.zeros(num_parts)

    def order(part: int) -> tuple[int, pa.RecordBatch, NDArray[np.int64]]:
        replicas = replicas_of(part, nodes, folder, num_nodes)
        owner = owners.at(replicas.keys)
        boundary = np.zeros(len(replicas.keys), np.uint8)
        records, table = edges.read(part, workspace), replicas.ranks(num_nodes).table
        ends = records["src"], records["dst"]
        cut = _mark(*ends, table, owner, part, boundary)
        masters = np.flatnonzero(replicas.is_master)
        outside = boundary[masters].view(np.bool_)
        interior = len(masters) - int(np.count_nonzero(outside))
        local = _local_order(outside, _degrees(nodes, part))
        write_arrays(_file(folder, part), key=replicas.keys[masters], local=local)
        mirrors = np.flatnonzero(~replicas.is_master)
        counts.masters[part], counts.mirrors[part] = len(masters), len(mirrors)
        counts.edges[part], counts.cut[part], counts.interior[part] = len(records), cut, interior
        role = ROLE_OUT * (replicas.out_count > 0) + ROLE_IN * (replicas.in_count > 0)
        by_owner, starts = bucket_order(owner[mirrors], num_parts)
        chosen = mirrors[by_owner]
        columns = {"node_key": replicas.keys[chosen], "role": role[chosen].astype(np.int8)}
        return part, pa.record_batch(columns), starts

    with (
        resources.progress.phase("order masters", len(parts), "parts") as advance,
        SpillWriter(folder, MIRRORS_SPILL, comm.rank) as writer,
    ):
        for part, rows, starts in resources.imap(order, parts):
            writer.append(part, rows, starts)
            advance(1)
    return counts.total(comm)


def number_masters(num_nodes: int, num_parts: int, folder: Path, resources: Resources) -> None:
    """Write every node's local id at its owner, by node key; collective."""
    comm = resources.comm
    first, last = resources.share(0, num_nodes)
    locals_ = NodeFile(folder, LOCALS, num_nodes)
    locals_.create(comm)
    keys = (read_arrays(_file(folder, part))["key"] for part in range(num_parts))
    places = [int(np.searchsorted(of_part, first)) for of_part in keys]
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        values = np.empty(stop - start, np.int32)
        for part, place in enumerate(places):
            of_part = read_arrays(_file(folder, part))
            end = place + int(np.searchsorted(of_part["key"][place:], stop))
            values[of_part["key"][place:end] - start] = of_part["local"][place:end]
            places[part] = end
        locals_.write(start, values)
    comm.barrier(stage="number masters")


def _degrees(nodes: SpillReader, part: int) -> NDArray[np.int64]:
    """Return the degrees of a part's masters in the whole graph, by node key."""
    total = [np.empty(0, np.int64)]
    for _, rows in nodes.read(part, ("in_degree", "out_degree")):
        total.append(as_numpy(rows.column(0)) + as_numpy(rows.column(1)))
    return np.concatenate(total)


def _local_order(outside: NDArray[np.bool_], degree: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the local id of each master."""
    power = np.frexp(degree.astype(np.float64))[1]  # 0 for degree 0, else bits of the degree
    group = np.where(outside, _POWERS, 0) + (_POWERS - 1 - power)
    order, _ = bucket_order(group, 2 * _POWERS)
    local = np.empty(len(order), np.int32)
    local[order] = np.arange(len(order), dtype=np.int32)
    return local


def local_ids(folder: Path, part: int) -> NDArray[np.int32]:
    """Return the local ids of a part's masters, in the order of their keys; memory-mapped.

    Shape:
        (M,) int32.
    """
    return read_arrays(_file(folder, part))["local"]


def _file(folder: Path, part: int) -> Path:
    return folder / f"masters-{part:05d}.arrow"


_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def _merge(
    held: NDArray[Any],
    in_count: NDArray[Any],
    out_count: NDArray[Any],
    masters: NDArray[Any],
) -> tuple[
    NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_]
]:  # pragma: no cover - compiled
    most = held.shape[0] + masters.shape[0]
    keys = np.empty(most, held.dtype)
    ins = np.zeros(most, in_count.dtype)
    outs = np.zeros(most, out_count.dtype)
    own = np.zeros(most, np.bool_)
    i = j = count = 0
    while i < held.shape[0] or j < masters.shape[0]:
        from_held = j == masters.shape[0] or (i < held.shape[0] and held[i] <= masters[j])
        own[count] = j < masters.shape[0] and (not from_held or held[i] == masters[j])
        if own[count]:
            keys[count] = masters[j]
            j += 1
        if from_held:
            keys[count] = held[i]
            ins[count] = in_count[i]
            outs[count] = out_count[i]
            i += 1
        count += 1
    return keys[:count].copy(), ins[:count].copy(), outs[:count].copy(), own[:count].copy()


@_jit
def _mark(
    src: NDArray[Any],
    dst: NDArray[Any],
    table: NDArray[np.uint64],
    owner: NDArray[np.int32],
    part: int,
    boundary: NDArray[np.uint8],
) -> int:  # pragma: no cover - compiled
    """Mark destinations of edges from mirrors; count edges between nodes of different owners."""
    cut = 0
    for i in range(np.uint64(src.shape[0])):
        s = rank_of(table, np.uint64(src[i]))
        d = rank_of(table, np.uint64(dst[i]))
        of_src = owner[s]
        boundary[d] |= np.uint8(of_src != part)  # a branch would be mispredicted too often
        cut += of_src != owner[d]
    return cut

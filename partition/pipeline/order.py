"""Order the masters of each part, and spill its mirrors to the parts that own them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.data.types import positions_of_keys
from graphtheta.errors import PartitionError
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.ooc.array_file import read_arrays, write_arrays
from graphtheta.partition.ooc.bitmap import BitMap, MemberPositions, member_position
from graphtheta.partition.ooc.edge_file import key_dtype
from graphtheta.partition.ooc.node_file import NodeFile
from graphtheta.partition.ooc.record_spill import RecordReader
from graphtheta.partition.ooc.spill import SpillReader, SpillWriter, bucket_order
from graphtheta.partition.ooc.thread_buffers import ThreadBuffers
from graphtheta.partition.pipeline.masters import NODES_SPILL, OWNERS
from graphtheta.partition.pipeline.part_nodes import KeySlices, own_parts, part_nodes
from graphtheta.partition.pipeline.shuffle_edges import relation_starts
from graphtheta.partition.store.part import ROLE_IN, ROLE_OUT
from graphtheta.partition.store.quality import PartCounts

__all__ = [
    "LOCAL_IDS",
    "MIRRORS_SPILL",
    "Replicas",
    "master_local_ids",
    "order_masters",
    "replicas_of",
    "write_local_ids",
]

MIRRORS_SPILL = "mirrors"
LOCAL_IDS = "local-ids"  # `NodeFile`: the local id of each node at its owner

_INT32_LIMIT = 2**31
_CHUNK_NODES = 1 << 22
_NUM_POWERS = 65  # number of bits of a degree: 0 to 64


@dataclass(frozen=True, slots=True)
class Replicas:
    """Nodes of one part, masters and mirrors, in the order of their node keys.

    Attributes:
        keys: Node keys, ascending.
        in_count: Number of in-edges of each node in this part.
        out_count: Number of out-edges of each node in this part.
        is_master: Whether this part owns the node.

    Shape:
        All (L,): int32 or int64; int32 or int64; bool.
    """

    keys: NDArray[Any]
    in_count: NDArray[Any]
    out_count: NDArray[Any]
    is_master: NDArray[np.bool_]

    def positions(self, num_nodes: int) -> MemberPositions:
        """Return the positions of node keys in `keys`."""
        bits = BitMap(num_nodes)
        bits.add(self.keys)
        return MemberPositions(bits)


def replicas_of(part: int, nodes: SpillReader, folder: Path, num_nodes: int) -> Replicas:
    """Return the nodes of a part: those of its edges, and those that it owns."""
    slices = [as_numpy(rows.column(0)) for _, rows in nodes.read(part, ("node_key",))]
    dtype = key_dtype(num_nodes)
    masters = np.concatenate([np.empty(0, dtype), *(keys.astype(dtype) for keys in slices)])
    of_edges = part_nodes(folder, part)
    counts = of_edges["in_count"], of_edges["out_count"]
    replicas = Replicas(*_merge(of_edges["key"], *counts, masters))
    if len(replicas.keys) >= _INT32_LIMIT:
        raise PartitionError(
            "partition: expected fewer than 2^31 replicas in a part, got "
            f"{len(replicas.keys):,} in part {part}. Use more parts."
        )
    return replicas


def order_masters(
    edges: RecordReader,
    num_nodes: int,
    num_parts: int,
    first_node_keys: NDArray[np.int64],
    first_edge_keys: NDArray[np.int64],
    folder: Path,
    resources: Resources,
) -> PartCounts:
    """Write the local ids of each part's masters, and the spill of mirrors by owner; collective.

    Interior masters come first: the sources of all their in-edges in this part are masters of this
    part. Boundary masters follow. Both groups are sorted by node type; then by the number of bits
    of the degree, descending, so that frequently read rows are close to each other (which saves
    14 % of the time of a sum over the in-edges of an RMAT graph); and then by node key, which keeps
    the locality of the input. A row of the spill has the `node_key` and `role` of a mirror; each
    part is one chunk.

    Args:
        edges: Reader of the records of the edges.
        num_nodes: Number of nodes of the graph (N).
        num_parts: Number of parts (P).
        first_node_keys: First node key of each node type.
        first_edge_keys: First edge key of each relation.
        folder: Folder of the spills.
        resources: Ranks, threads and memory.

    Returns:
        Counts of all parts.
    """
    comm = resources.comm
    parts = own_parts(num_parts, comm.rank, comm.size)
    nodes, buffers = SpillReader(folder, NODES_SPILL), ThreadBuffers()
    owners = NodeFile(folder, OWNERS, num_nodes)
    num_types, num_relations = len(first_node_keys), len(first_edge_keys)
    counts = PartCounts.zeros(num_parts, num_types, num_relations)

    def order(part: int) -> tuple[int, pa.RecordBatch, NDArray[np.int64]]:
        replicas = replicas_of(part, nodes, folder, num_nodes)
        owner = owners.at(replicas.keys)
        boundary = np.zeros(len(replicas.keys), np.uint8)
        records, table = edges.read(part, buffers), replicas.positions(num_nodes).table
        bounds = relation_starts(records, first_edge_keys)
        for relation, (first, last) in enumerate(pairwise(bounds)):
            src, dst = records["src"][first:last], records["dst"][first:last]
            cut = _mark_boundary(src, dst, table, owner, part, boundary)
            counts.edges_of[part, relation], counts.cut_of[part, relation] = last - first, cut
        masters = np.flatnonzero(replicas.is_master)
        is_boundary = boundary[masters].view(np.bool_)
        interior = len(masters) - int(np.count_nonzero(is_boundary))
        keys = replicas.keys[masters]
        group = is_boundary * np.int64(num_types) + positions_of_keys(keys, first_node_keys)
        local = _local_ids(group, 2 * num_types, _degrees(nodes, part))
        write_arrays(_file(folder, part), key=keys, local=local)
        mirrors = np.flatnonzero(~replicas.is_master)
        counts.masters[part], counts.mirrors[part] = len(masters), len(mirrors)
        counts.edges[part], counts.cut[part] = len(records), counts.cut_of[part].sum()
        counts.interior[part] = interior
        counts.syncs[part] = np.count_nonzero(replicas.out_count[mirrors])
        counts.merges[part] = np.count_nonzero(replicas.in_count[mirrors])
        for count, of in ((counts.masters_of, keys), (counts.mirrors_of, replicas.keys[mirrors])):
            bounds = [*np.searchsorted(of, first_node_keys).tolist(), len(of)]
            count[part] = np.diff(np.array(bounds, np.int64))
        role = ROLE_OUT * (replicas.out_count > 0) + ROLE_IN * (replicas.in_count > 0)
        by_owner, starts = bucket_order(owner[mirrors], num_parts)
        mirrors = mirrors[by_owner]
        columns = {"node_key": replicas.keys[mirrors], "role": role[mirrors].astype(np.int8)}
        return part, pa.record_batch(columns), starts

    with (
        resources.progress.phase("order masters", len(parts), "parts") as advance,
        SpillWriter(folder, MIRRORS_SPILL, comm.rank) as writer,
    ):
        for part, rows, starts in resources.imap(order, parts):
            writer.append(part, rows, starts)
            advance(1)
    return counts.total(comm)


def write_local_ids(num_nodes: int, num_parts: int, folder: Path, resources: Resources) -> None:
    """Write the local id of every node at its owner, in the order of node keys; collective."""
    comm = resources.comm
    first, last = resources.share(0, num_nodes)
    local_ids = NodeFile(folder, LOCAL_IDS, num_nodes)
    local_ids.create(comm)
    cursor = KeySlices(lambda part: read_arrays(_file(folder, part))["key"], num_parts, first)
    for start, stop in chunk_ranges(first, last, _CHUNK_NODES):
        values = np.empty(stop - start, np.int32)
        for part, rows in enumerate(cursor.advance(stop)):
            masters = read_arrays(_file(folder, part))
            values[masters["key"][rows] - start] = masters["local"][rows]
        local_ids.write(start, values)
    comm.barrier(stage="write local ids")


def _degrees(nodes: SpillReader, part: int) -> NDArray[np.int64]:
    """Return the degrees of a part's masters in the whole graph, in the order of node keys."""
    total = [np.empty(0, np.int64)]
    for _, rows in nodes.read(part, ("in_degree", "out_degree")):
        total.append(as_numpy(rows.column(0)) + as_numpy(rows.column(1)))
    return np.concatenate(total)


def _local_ids(
    group: NDArray[np.int64], num_groups: int, degree: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Return the local id of each master; see `order_masters` for the order."""
    power = np.frexp(degree.astype(np.float64))[1]  # number of bits of the degree
    group = group * _NUM_POWERS + (_NUM_POWERS - 1 - power)
    order, _ = bucket_order(group, num_groups * _NUM_POWERS)
    local = np.empty(len(order), np.int32)
    local[order] = np.arange(len(order), dtype=np.int32)
    return local


def master_local_ids(folder: Path, part: int) -> NDArray[np.int32]:
    """Return the local ids of a part's masters in the order of node keys, memory-mapped.

    Shape:
        (M,) int32.
    """
    return read_arrays(_file(folder, part))["local"]


def _file(folder: Path, part: int) -> Path:
    return folder / f"masters-{part:05d}.arrow"


@jit
def _merge(
    nodes: NDArray[Any],
    in_count: NDArray[Any],
    out_count: NDArray[Any],
    masters: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Merge the keys of nodes with edges and of masters into the fields of `Replicas`."""
    most = nodes.shape[0] + masters.shape[0]
    keys = np.empty(most, nodes.dtype)
    ins = np.zeros(most, in_count.dtype)
    outs = np.zeros(most, out_count.dtype)
    own = np.zeros(most, np.bool_)
    i = j = count = 0
    while i < nodes.shape[0] or j < masters.shape[0]:
        has_edges = j == masters.shape[0] or (i < nodes.shape[0] and nodes[i] <= masters[j])
        own[count] = j < masters.shape[0] and (not has_edges or nodes[i] == masters[j])
        if own[count]:
            keys[count] = masters[j]
            j += 1
        if has_edges:
            keys[count] = nodes[i]
            ins[count] = in_count[i]
            outs[count] = out_count[i]
            i += 1
        count += 1
    return keys[:count].copy(), ins[:count].copy(), outs[:count].copy(), own[:count].copy()


@jit
def _mark_boundary(
    src: NDArray[Any],
    dst: NDArray[Any],
    table: NDArray[np.uint64],
    owner: NDArray[np.int32],
    part: int,
    boundary: NDArray[np.uint8],
) -> int:
    """Mark destinations of edges from mirrors; count edges between nodes of different owners."""
    cut = 0
    for i in range(np.uint64(src.shape[0])):
        s = member_position(table, np.uint64(src[i]))
        d = member_position(table, np.uint64(dst[i]))
        src_owner = owner[s]
        boundary[d] |= np.uint8(src_owner != part)  # a branch would often be mispredicted
        cut += src_owner != owner[d]
    return cut

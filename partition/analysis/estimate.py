"""Estimate of the memory, disk space and time that a partitioning job needs.

Rates were measured with two threads of an AMD EPYC of 2020 and a local disk, by
`benchmarks/partition.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.batches import CHUNK_BYTES
from graphtheta.data.schema import whole
from graphtheta.data.source import GraphSource
from graphtheta.data.types import key_chunks
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import CHUNK_EDGES
from graphtheta.partition.ooc.id_table import map_bytes
from graphtheta.partition.pipeline.part_size import (
    copied_bytes,
    mean_bytes,
    part_bytes,
    row_bytes,
)
from graphtheta.partition.pipeline.plan import Plan
from graphtheta.partition.store.id_hash import hash_ids
from graphtheta.wording import format_bytes

__all__ = ["Estimate", "estimate", "held_bytes"]

_SAMPLES, _SAMPLE_EDGES = 16, 1 << 16
_PROCESS = 300_000_000  # bytes of Python, its libraries and compiled code
_BUFFER = 64  # bytes per edge of the chunks in flight
_STARTUP = 3.0  # seconds until libraries are loaded and kernels are compiled or found
_TEXT_RATE = 0.5e6  # edges per second whose ids are texts, in addition
_COLUMN_RATE = 100e6  # bytes per second of columns of nodes and edges, through all phases
_PIPELINE_RATE = 12e6  # edges per second through all phases except the method
_COVER_RATE = 8e6  # edges per second of cover placement, in addition
_DEFAULT_RATE = 100e6  # edges per second of methods that are not in _RATES
_RATES = {  # edges per second of the methods, for 32 parts
    "hdrf": 7e6,
    "2ps-l": 12e6,
    "hep": 2e6,
    "ldg": 8e6,
    "fennel": 8e6,
    "lpa": 5e6,
    "kaminpar": 1e6,
    "metis": 0.3e6,
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated memory, disk space and time of a partitioning job.

    Attributes:
        num_nodes: Number of nodes; without a node table, estimated from a sample of edges.
        num_edges: Number of edges, including reverse edges.
        memory: Peak memory of each rank in bytes, with `held_bytes`.
        method_memory: Upper bound of the memory of the method on each rank, in bytes. The method
            is refused if it does not fit the memory limit.
        build_memory: Peak memory of each rank in bytes, in all phases except the method, with
            `held_bytes`.
        scratch: Disk space for temporary files, in bytes.
        store: Disk space for the store, in bytes.
        seconds: Time of the whole job.
    """

    num_nodes: int
    num_edges: int
    memory: int
    method_memory: int
    build_memory: int
    scratch: int
    store: int
    seconds: float

    def rows(self) -> list[tuple[str, str]]:
        """Return (name, value) rows of text for display."""
        return [
            ("nodes", f"about {self.num_nodes:,}"),
            ("edges", f"{self.num_edges:,}"),
            ("memory per rank", format_bytes(self.memory)),
            ("of this, for the method", format_bytes(self.method_memory)),
            ("disk for temporary files", format_bytes(self.scratch)),
            ("disk for the store", format_bytes(self.store)),
            ("time", f"about {self.seconds:,.0f} s"),
        ]


def held_bytes(source: GraphSource) -> int:
    """Return the bytes that a process takes before it partitions: libraries and the source."""
    return _PROCESS + source.memory_bytes


def estimate(source: GraphSource, plan: Plan, resources: Resources) -> Estimate:
    """Estimate what `make_store` needs, from table sizes and a sample of edges; not collective.

    Raises:
        GraphFormatError: If the sample cannot be read.
    """
    num_nodes = source.num_nodes
    if num_nodes is None:
        num_nodes = _estimate_nodes(source)
    num_edges = source.num_edges * (2 if plan.undirected else 1)
    key = 4 if num_nodes < 2**31 else 8
    position = 4 if num_edges < 2**31 else 8
    edge_columns = mean_bytes(source.edge_tables, lambda schema: row_bytes(_without_ends(schema)))
    node_row = mean_bytes(source.node_tables, row_bytes) or 8
    method = plan.partitioner.memory(num_nodes, num_edges, plan.num_parts)
    # Replicas of a part: its masters, and at most one endpoint of each edge.
    replicas = min(num_nodes, num_nodes / plan.num_parts + num_edges / plan.num_parts)
    part_edges, part_nodes = num_edges / plan.num_parts, num_nodes / plan.num_parts
    copied = copied_bytes(source.edge_tables), copied_bytes(source.node_tables) or 16
    part = part_bytes(num_nodes, part_edges, replicas, part_nodes, *copied)
    # Rows in flight: as they are read and converted, unless the source has them, and sorted.
    copies, in_flight = 1 if source.memory_bytes else 3, resources.threads + 2
    ends = 0 if source.memory_bytes else mean_bytes(source.edge_tables, row_bytes) - edge_columns
    buffers = min(in_flight * CHUNK_EDGES, num_edges) * (_BUFFER + ends)
    buffers += copies * min(in_flight * CHUNK_BYTES, num_edges * edge_columns)
    node_buffers = copies * min(in_flight * CHUNK_BYTES, num_nodes * node_row)
    id_types = _id_types(source, num_nodes)
    ids = 0 if source.keyed else sum(map_bytes(*of_type) for of_type in id_types)
    held = held_bytes(source)
    parallel = min(resources.threads, -(-plan.num_parts // resources.comm.size))
    if resources.memory_limit is not None:
        left = max(0, resources.memory_limit - held)
        ids = min(ids, left // 2)
        parallel = max(1, min(parallel, int(left // max(part, 1))))
    wide = min(CHUNK_BYTES, int(part_nodes * node_row))  # mapped rows of a part
    build = held + int(
        max(
            ids + buffers,
            num_nodes * (8 + position) + max(buffers, node_buffers),
            parallel * (part + wide),
        )
    )
    spill = num_edges * (2 * key + 4 + position + edge_columns) + num_nodes * (node_row + 24)
    keys = num_edges * (2 * key + 2) + (num_edges // 2 * 8 if plan.undirected else 0)
    store = (
        num_edges * (28 + edge_columns)
        + num_nodes * (node_row + 24 + 32)
        + replicas * 32 * plan.num_parts
    )
    work = num_edges / _PIPELINE_RATE + num_edges / _RATES.get(plan.method, _DEFAULT_RATE)
    work += num_edges / _COVER_RATE if plan.covers else 0
    work += num_edges / _TEXT_RATE if pa.string() in dict(id_types) else 0
    work += (num_nodes * node_row + num_edges * edge_columns) / _COLUMN_RATE
    return Estimate(
        num_nodes=num_nodes,
        num_edges=num_edges,
        memory=max(build, held + method + buffers),
        method_memory=method,
        build_memory=build,
        scratch=int(spill + keys),
        store=int(store),
        seconds=_STARTUP + work * 2 / max(1, resources.threads * resources.comm.size),
    )


def _without_ends(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in ("src", "dst")])


def _id_types(source: GraphSource, num_nodes: int) -> list[tuple[pa.DataType, int]]:
    """Return the type of the ids of each node type, and its number of nodes."""
    if not source.node_tables:
        return [(source.edge_tables[0].schema.field("src").type, num_nodes)]
    return [(table.schema.field("id").type, table.num_rows) for table in source.node_tables]


def _estimate_nodes(source: GraphSource) -> int:
    """Estimate the number of distinct node ids in the edge table from a sample of edges.

    Source:
        Chao, "Nonparametric estimation of the number of classes in a population", Scandinavian
        Journal of Statistics 11(4), 1984 (a lower bound).
    """
    starts = np.linspace(0, max(0, source.num_edges - _SAMPLE_EDGES), _SAMPLES).astype(np.int64)
    hashes = [np.empty(0, np.uint64), *_sample_hashes(source, np.unique(starts).tolist())]
    _, counts = np.unique(np.concatenate(hashes), return_counts=True)
    once, twice = int(np.count_nonzero(counts == 1)), int(np.count_nonzero(counts == 2))
    unseen = once * once / (2 * twice) if twice else 0
    return max(1, min(int(len(counts) + unseen), 2 * source.num_edges))


def _sample_hashes(source: GraphSource, starts: list[int]) -> Iterator[NDArray[np.uint64]]:
    for start in starts:
        stop = min(start + _SAMPLE_EDGES, source.num_edges)
        for _, _, chunk in key_chunks(source.edge_tables, start, stop, ["src", "dst"]):
            for end in ("src", "dst"):
                yield hash_ids(whole(chunk[end]))

"""What a partitioning will take, said before it starts: memory, disk and time.

Times are for two threads of an AMD EPYC of 2020 and a local disk, from `benchmarks/partition.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import whole
from graphtheta.data.source import GraphSource
from graphtheta.partition.core.resources import Resources, format_bytes
from graphtheta.partition.core.stream import CHUNK_EDGES
from graphtheta.partition.ooc.id_table import map_bytes
from graphtheta.partition.pipeline.part_builder import part_bytes
from graphtheta.partition.pipeline.pipeline import Plan, named_partitioner, row_bytes
from graphtheta.partition.store.id_hash import hash_ids

__all__ = ["Estimate", "estimate"]

_SAMPLES, _SAMPLE_EDGES = 16, 1 << 16
_BUFFER = 96  # bytes an edge of the chunks on their way
_BUILD_RATE = 12e6  # edges a second through all phases but the method
_RATES = {  # edges a second of the methods at 32 parts; those not named: as the build
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
    """What a job will take.

    Attributes:
        num_nodes: Nodes; guessed from a sample of edges without a node table.
        num_edges: Edges, reverse ones included.
        memory: Bytes of each rank at the peak.
        method_memory: Bytes of each rank for the method's own state, at most: the method refuses
            to start when it knows that it does not fit.
        build_memory: Bytes of each rank at the peak of all but the method.
        scratch: Bytes of disk for files that are gone when the store is there.
        store: Bytes of disk for the store.
        seconds: Of the whole.
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
        """Return (what, value) lines for a person."""
        return [
            ("nodes", f"about {self.num_nodes:,}"),
            ("edges", f"{self.num_edges:,}"),
            ("memory of a rank", format_bytes(self.memory)),
            ("of it, for the method", format_bytes(self.method_memory)),
            ("disk for scratch", format_bytes(self.scratch)),
            ("disk for the store", format_bytes(self.store)),
            ("time", f"about {self.seconds:,.0f} s"),
        ]


def estimate(source: GraphSource, plan: Plan, resources: Resources) -> Estimate:
    """Return what `make_store` will take, from sizes and a sample of edges; every rank by itself.

    Raises:
        GraphFormatError: If the sample cannot be read.
    """
    num_nodes = source.num_nodes
    if num_nodes is None:
        num_nodes = _guess(source)
    num_edges = source.num_edges * (2 if plan.undirected else 1)
    key = 4 if num_nodes < 2**31 else 8
    place = 4 if num_edges < 2**31 else 8
    columns = [field for field in source.edge_schema if field.name not in ("src", "dst")]
    edge_columns = row_bytes(pa.schema(columns))
    node_row = row_bytes(source.node_schema) or 8
    method = named_partitioner(plan.method).memory(num_nodes, num_edges, plan.num_parts)
    # Replicas of a part: its masters, and at most an end of each edge.
    replicas = min(num_nodes, num_nodes / plan.num_parts + num_edges / plan.num_parts)
    part_edges, part_nodes = num_edges / plan.num_parts, num_nodes / plan.num_parts
    edge_row = row_bytes(source.edge_schema)
    part = part_bytes(num_nodes, part_edges, replicas, part_nodes, edge_row, node_row)
    chunk = min(CHUNK_EDGES, num_edges)
    buffers = (resources.threads + 2) * chunk * (_BUFFER + edge_columns)
    ids = 0 if source.keyed else map_bytes(source.edge_schema.field("src").type, num_nodes)
    if resources.memory_limit is not None:
        ids = min(ids, resources.memory_limit // 2)
    at_once = resources.threads
    if resources.memory_limit is not None:
        at_once = max(1, min(at_once, int(resources.memory_limit // max(part, 1))))
    build = int(max(ids + buffers, num_nodes * (8 + place) + buffers, at_once * part))
    spill = num_edges * (2 * key + 4 + place + edge_columns) + num_nodes * (node_row + 24)
    keys = num_edges * (2 * key + 2) + (num_edges // 2 * 8 if plan.undirected else 0)
    store = (
        num_edges * (28 + edge_columns)
        + num_nodes * (node_row + 24 + 32)
        + replicas * 32 * plan.num_parts
    )
    rate = 1 / (1 / _BUILD_RATE + 1 / _RATES.get(plan.method, 100e6))
    return Estimate(
        num_nodes=num_nodes,
        num_edges=num_edges,
        memory=max(build, method + buffers),
        method_memory=method,
        build_memory=build,
        scratch=int(spill + keys),
        store=int(store),
        seconds=num_edges / rate * 2 / max(1, resources.threads * resources.comm.size),
    )


def _guess(source: GraphSource) -> int:
    """Return about how many different ids the edges have: Chao's estimate, and at least that."""
    starts = np.linspace(0, max(0, source.num_edges - _SAMPLE_EDGES), _SAMPLES).astype(np.int64)
    hashes = [np.empty(0, np.uint64), *_sampled(source, np.unique(starts).tolist())]
    _, counts = np.unique(np.concatenate(hashes), return_counts=True)
    once, twice = int(np.count_nonzero(counts == 1)), int(np.count_nonzero(counts == 2))
    hidden = once * once / (2 * twice) if twice else 0
    return max(1, min(int(len(counts) + hidden), 2 * source.num_edges))


def _sampled(source: GraphSource, starts: list[int]) -> Iterator[NDArray[np.uint64]]:
    for start in starts:
        stop = min(start + _SAMPLE_EDGES, source.num_edges)
        for chunk in source.edge_chunks(start, stop, ends_only=True):
            for end in ("src", "dst"):
                yield hash_ids(whole(chunk[end]))

"""Replication factors of HDRF and DBH compared with sequential implementations of their formulas.

    python benchmarks/replication.py --json benchmarks/results/replication.jsonl

GraphTheta's HDRF assigns blocks of edges against a frozen state; the sequential implementation
follows the paper and assigns one edge after the other. DBH must be equal to its formula. The table
has one row per graph, method and number of parts: both replication factors and their ratio.
"""

from __future__ import annotations

import argparse
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.bench.record import append, provenance
from graphtheta.datasets.generate import rmat_edges
from graphtheta.partition import PARTITIONERS, EdgesInMemory, PartitionJob, Resources
from graphtheta.rng.philox import Purpose, hash_keys

Array = NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=20, help="log2 of the number of nodes")
    parser.add_argument("--edge-factor", type=int, default=16, help="edges per node of RMAT")
    parser.add_argument("--json", help="JSON Lines file to append records to")
    arguments = parser.parse_args()
    num_nodes = 1 << arguments.scale
    rmat = rmat_edges(0, arguments.edge_factor << arguments.scale, scale=arguments.scale)
    print("| graph | method | parts | GraphTheta | sequential | ratio |\n|---|---|---|---|---|---|")
    for graph, ends in (("rmat", rmat), ("communities", _communities(num_nodes))):
        src, dst = (end.astype(np.int32) for end in ends)
        for num_parts in (32, 128):
            for method, sequential in (("hdrf", _hdrf), ("dbh", _dbh)):
                parts = _graphtheta(method, num_nodes, src, dst, num_parts)
                factor = _factor(src, dst, parts, num_parts)
                parts = sequential(num_nodes, src, dst, num_parts)
                reference = _factor(src, dst, parts, num_parts)
                record = {
                    "benchmark": "replication",
                    "graph": graph,
                    "num_nodes": num_nodes,
                    "num_edges": len(src),
                    "method": method,
                    "num_parts": num_parts,
                    "replication_factor": factor,
                    "sequential": reference,
                }
                factors = f"{factor:.4f} | {reference:.4f} | {factor / reference:.4f}"
                print(f"| {graph} | {method} | {num_parts} | {factors} |", flush=True)
                append(arguments.json, [record | provenance(1)])


def _communities(num_nodes: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    src = rng.integers(0, num_nodes, 16 * num_nodes)
    near = (src & ~255) + rng.integers(0, 256, len(src))
    dst = np.where(rng.random(len(src)) < 0.8, near, rng.integers(0, num_nodes, len(src)))
    shuffled = rng.permutation(num_nodes)
    return shuffled[src], shuffled[dst]


def _graphtheta(method: str, num_nodes: int, src: Array, dst: Array, num_parts: int) -> Array:
    parts = np.empty(len(src), np.int32)
    partitioner = PARTITIONERS[method]
    assert partitioner.cut == "vertex"
    stream = EdgesInMemory(num_nodes, src, dst)
    for first, some in partitioner(PartitionJob(stream, num_parts, resources=Resources(threads=2))):
        parts[first : first + len(some)] = some
    return parts


def _dbh(num_nodes: int, src: Array, dst: Array, num_parts: int) -> Array:
    degree = np.bincount(src, minlength=num_nodes) + np.bincount(dst, minlength=num_nodes)
    by_src = (degree[src] < degree[dst]) | ((degree[src] == degree[dst]) & (src < dst))
    hashes = hash_keys(np.arange(num_nodes), 0, Purpose.PLACEMENT)
    return (hashes[np.where(by_src, src, dst)] % np.uint64(num_parts)).astype(np.int32)


def _hdrf(num_nodes: int, src: Array, dst: Array, num_parts: int) -> Array:
    degree = np.bincount(src, minlength=num_nodes) + np.bincount(dst, minlength=num_nodes)
    return _hdrf_loop(src, dst, degree, num_parts)


@numba.njit(cache=True, boundscheck=False)
def _hdrf_loop(src: Array, dst: Array, degree: Array, num_parts: int) -> Array:
    # Petroni, Querzoni, Daudjee, Kamali, Iacoboni, "HDRF", CIKM 2015, with lambda = 1.1.
    held = np.zeros((degree.shape[0], num_parts), np.bool_)
    load = np.zeros(num_parts, np.int64)
    parts = np.empty(src.shape[0], np.int32)
    for e in range(src.shape[0]):
        u, v = src[e], dst[e]
        share = degree[u] / (degree[u] + degree[v])
        low, high = load.min(), load.max()
        best, best_score = 0, -1.0
        for p in range(num_parts):
            score = 1.1 * (high - load[p]) / (1.0 + high - low)
            if held[u, p]:
                score += 2.0 - share
            if held[v, p]:
                score += 1.0 + share
            if score > best_score:
                best, best_score = p, score
        held[u, best] = True
        held[v, best] = True
        load[best] += 1
        parts[e] = best
    return parts


def _factor(src: Array, dst: Array, parts: Array, num_parts: int) -> float:
    """Return the mean number of replicas of the nodes that have an edge."""
    pairs = np.concatenate([end.astype(np.int64) * num_parts + parts for end in (src, dst)])
    pairs = np.unique(pairs)
    return len(pairs) / len(np.unique(pairs // num_parts))


if __name__ == "__main__":
    main()

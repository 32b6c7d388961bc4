"""Rows, bytes and balance of cover placement, next to the edge-cut of the same nodes.

    python benchmarks/placement.py --data ../shared/data --json benchmarks/results/placement.jsonl

Assigns the nodes of four graphs to parts, and places the cut edges with their destination (the
edge-cut) and by minimum vertex covers, for merges that are worth 1 and 1.25 syncs. Vertex-cuts are
counted next to them. A record has the rows that the forward pass of a layer exchanges, and the
bytes of its forward and backward pass for SAGE of 64 channels (a sync and a merge have 64 values)
and for GAT of 8 heads of 8 (a sync has 72 values; a merge 80 and 8 of the destination, and 72 and 8
backward). It fails if a cover has more rows than the edge-cut.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta import datasets
from graphtheta.bench.record import append, provenance
from graphtheta.data.graph import Graph
from graphtheta.datasets.generate import communities, rmat_edges
from graphtheta.partition import PARTITIONERS, EdgesInMemory, PartitionJob, Resources
from graphtheta.partition.placement.cover import place_by_cover
from graphtheta.rng.philox import Purpose, hash_keys

Array = NDArray[Any]

GRAPHS = ("rmat", "communities", "computers", "fb15k-237")
WEIGHTS = (1.0, 1.25)
VALUES = {"sage": (2 * 64, 2 * 64), "gat": (72 + 72, 88 + 80)}  # of a sync and a merge, both passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", default=",".join(GRAPHS), help="graphs")
    parser.add_argument("--methods", default="kaminpar,fennel,node-hash", help="edge-cuts")
    parser.add_argument("--vertex-cuts", default="dbh,hdrf", help="vertex-cuts")
    parser.add_argument("--parts", default="2,4,8,16,32", help="numbers of parts")
    parser.add_argument(
        "--scale", type=int, default=16, help="log2 of the nodes of generated graphs"
    )
    parser.add_argument("--data", default="../shared/data", help="folder of published data sets")
    parser.add_argument("--json", help="JSON Lines file to append records to")
    arguments = parser.parse_args()
    print(
        "| graph | method | parts | edge-cut rows | cover / edge-cut, weight 1 / 1.25 | GAT bytes |"
    )
    print("|---|---|---|---|---|---|")
    ratios = []
    for graph in arguments.graphs.split(","):
        num_nodes, src, dst = _edges(graph, arguments)
        stream = EdgesInMemory(num_nodes, src.astype(np.int32), dst.astype(np.int32))
        about = {"benchmark": "placement", "graph": graph, "num_nodes": num_nodes}
        about["num_edges"] = stream.num_edges
        for num_parts in map(int, arguments.parts.split(",")):
            for method in arguments.methods.split(","):
                found = list(_of_nodes(stream, method, num_parts))
                append(arguments.json, [about | one | provenance(1) for one in found])
                rows = [one["rows"] for one in found]
                assert max(rows[1:]) <= rows[0], "a cover has more rows than the edge-cut"
                ratios.append([row / rows[0] for row in rows[1:]])
                gat = found[2]["bytes_gat"] / found[0]["bytes_gat"]
                both = " / ".join(f"{ratio:.3f}" for ratio in ratios[-1])
                print(f"| {graph} | {method} | {num_parts} | {rows[0]:,} | {both} | {gat:.3f} |")
            for method in arguments.vertex_cuts.split(","):
                one = about | _of_edges(stream, method, num_parts)
                append(arguments.json, [one | provenance(1)])
                print(f"| {graph} | {method} | {num_parts} | {one['rows']:,} | | |", flush=True)
    print("mean of cover / edge-cut:", np.mean(ratios, axis=0).round(3).tolist())


def _edges(name: str, arguments: argparse.Namespace) -> tuple[int, Array, Array]:
    if name == "rmat":
        nodes = 1 << arguments.scale
        return nodes, *rmat_edges(0, 16 * nodes, scale=arguments.scale)
    if name == "communities":
        with tempfile.TemporaryDirectory() as folder:
            made = communities(Path(folder) / "graph", nodes=1 << arguments.scale, features=1)
            graph = Graph.from_source(datasets.read(str(made)))
            return graph.num_nodes, graph.src, graph.dst
    folders = {"computers": "amazon-computers", "fb15k-237": "fb15k237"}
    graph = Graph.from_source(datasets.read(str(Path(arguments.data) / folders[name])))
    return graph.num_nodes, graph.src, graph.dst


def _of_nodes(stream: EdgesInMemory, method: str, num_parts: int) -> Iterator[dict[str, Any]]:
    """Yield the records of the edge-cut, and of the covers for each weight of a merge."""
    partitioner = PARTITIONERS[method]
    assert partitioner.cut == "edge"
    part_N = partitioner(PartitionJob(stream, num_parts))
    yield _record(stream, part_N, part_N[stream.dst], num_parts, method, "method", None, 0.0)
    for weight in WEIGHTS:
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            placed = place_by_cover(
                stream, part_N, num_parts, Path(folder), Resources(), merge_weight=weight
            )
            part_E = np.concatenate([parts for _, parts in placed])
            seconds = time.process_time() - start
        yield _record(stream, part_N, part_E, num_parts, method, "cover", weight, seconds)


def _of_edges(stream: EdgesInMemory, method: str, num_parts: int) -> dict[str, Any]:
    """Return the record of a vertex-cut; a node's master is drawn from the parts that hold it."""
    partitioner = PARTITIONERS[method]
    assert partitioner.cut == "vertex"
    part_E = np.empty(stream.num_edges, np.int32)
    for first, some in partitioner(PartitionJob(stream, num_parts)):
        part_E[first : first + len(some)] = some
    ends = np.concatenate([stream.src, stream.dst]).astype(np.int64)
    held = np.unique(ends * num_parts + np.tile(part_E, 2))
    node, first, count = np.unique(held // num_parts, return_index=True, return_counts=True)
    part_N = np.zeros(stream.num_nodes, np.int32)
    turn = (hash_keys(node, 0, Purpose.PLACEMENT) % count.astype(np.uint64)).astype(np.int64)
    part_N[node] = held[first + turn] % num_parts
    return _record(stream, part_N, part_E, num_parts, method, "method", None, 0.0)


def _record(
    stream: EdgesInMemory,
    part_N: Array,
    part_E: Array,
    num_parts: int,
    method: str,
    placement: str,
    weight: float | None,
    seconds: float,
) -> dict[str, Any]:
    syncs, merges = (
        len(np.unique((end.astype(np.int64) * num_parts + part_E)[part_N[end] != part_E]))
        for end in (stream.src, stream.dst)
    )
    edges = np.bincount(part_E, minlength=num_parts)
    return {
        "method": method,
        "num_parts": num_parts,
        "placement": placement,
        "merge_weight": weight,
        "rows": syncs + merges,
        "syncs": syncs,
        "merges": merges,
        **{
            f"bytes_{model}": 4 * (syncs * of_sync + merges * of_merge)
            for model, (of_sync, of_merge) in VALUES.items()
        },
        "edge_balance": float(edges.max() * num_parts / len(part_E)),
        "cpu_seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    main()

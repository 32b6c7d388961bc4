"""Time and memory of R-GCN epochs for GraphTheta and PyG on typed graphs, measured in one run.

    python benchmarks/typed.py --peers-python PEERS/bin/python --data ../shared/data

An epoch is forward, loss, backward and a step of Adam on the whole graph, of two layers of R-GCN
whose inputs, 32 columns, are learned. The graphs are Debian's packages with their sources,
maintainers and tags (11 relations and their reverses; the label is the section of a package), and
RMAT with 4 node types and 8 relations. All libraries start with the same weights, and outputs and
gradients are compared before anything is timed. PyG's `FastRGCNConv` is left out where its matrix
per edge needs more than `--largest` bytes.

The columns, and how memory is measured, are those of `epochs.py`; CPU seconds are those of all
threads together, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from peers.compare import (
    TOLERANCE,
    PeerComparison,
    arguments,
    largest_difference,
    megabytes,
    memory,
    milliseconds,
    ratio,
    written,
)

import graphtheta as gt
from graphtheta.bench.record import Record
from graphtheta.data.schema import matrix_column
from graphtheta.datasets.generate.rmat import rmat_edges

TIME_BAR, MEMORY_BAR = 3.0, 2.0
WIDTH = 32  # of the learned inputs
MEMORY_EPOCHS = 3


def main() -> int:
    """Run all cases, print the table, and return 1 if the results of a peer differ."""
    options = _options()
    print(f"{options.threads} threads, medians of {options.runs} runs\n")
    head = ("graph", "hidden", "bases", "GraphTheta ms", "PyG ms", "x (bar)")
    head += ("GraphTheta CPU s", "PyG CPU s", "x (bar)")
    head += ("GraphTheta MB", "PyG MB", "less memory (bar)", "differs")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    differs = False
    for name, graph in _graphs(options):
        about = {"graph": name, "nodes": graph.num_nodes, "edges": graph.num_edges}
        about |= {"relations": int(graph.column("type").max()) + 1}
        with written(graph) as folder:
            peers = ("pyg",) if "pyg" in options.peers.split(",") else ()
            comparison = PeerComparison("typed", folder, options, ("graphtheta", *peers))
            for hidden in map(int, options.hidden.split(",")):
                for bases in map(int, options.bases.split(",")):
                    cells, difference = _measure(comparison, about, hidden, bases)
                    differs |= difference > TOLERANCE
                    print(f"| {' | '.join(cells)} |", flush=True)
    return int(differs)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--graphs", default="debian,rmat", help="debian, rmat")
    parser.add_argument("--hidden", default="32,64", help="columns between the layers")
    parser.add_argument("--bases", default="0,8", help="bases of the matrices; 0 for none")
    parser.add_argument("--scale", type=int, default=20, help="RMAT scale")
    parser.add_argument("--largest", type=float, default=3e9, help="bytes for FastRGCNConv")
    parser.add_argument("--data", type=Path, help="folder with debian/")
    parser.add_argument("--no-memory", action="store_true", help="measure only time")
    return parser.parse_args()


def _graphs(options: argparse.Namespace) -> Iterator[tuple[str, gt.Graph]]:
    if "debian" in options.graphs:
        if options.data is None:
            sys.exit("typed: expected --data for Debian, got none. Specify its folder.")
        yield "Debian", debian(options.data / "debian")
    if "rmat" in options.graphs:
        yield f"rmat {options.scale} x 10", typed_rmat(options.scale)


def debian(folder: Path) -> gt.Graph:
    """Return Debian's graph with all node types in one table, and every relation's reverse."""
    ids, first, count = {}, {}, 0
    for file in sorted(folder.glob("nodes-*.parquet")):
        name = file.stem.removeprefix("nodes-")
        ids[name], first[name] = pq.read_table(file), count
        count += len(ids[name])
    ends: list[NDArray[np.int64]] = []
    types: list[NDArray[np.int64]] = []
    for number, file in enumerate(sorted(folder.glob("edges-*.parquet"))):
        source, _, destination = file.stem.removeprefix("edges-").split("-")
        table = pq.read_table(file)
        src, dst = (
            first[name]
            + pc.index_in(table[column], ids[name]["id"].combine_chunks()).cast("int64").to_numpy()
            for column, name in (("src", source), ("dst", destination))
        )
        ends += [np.stack([src, dst]), np.stack([dst, src])]
        types += [np.full(len(src), 2 * number), np.full(len(src), 2 * number + 1)]
    packages = ids["package"]
    codes = packages["section"].combine_chunks().dictionary_encode().indices
    labels, train = np.full(count, -1), np.zeros(count, np.int8)
    rows = slice(first["package"], first["package"] + len(packages))
    labels[rows] = codes.fill_null(-1).to_numpy(zero_copy_only=False)
    train[rows] = pc.equal(packages["split"], "train").to_numpy()
    return _graph(np.concatenate(ends, 1), np.concatenate(types), labels, train)


def typed_rmat(scale: int, seed: int = 0) -> gt.Graph:
    """Return an RMAT graph of 4 node types, each with edges of 2 relations to 2 types.

    Args:
        scale: Binary logarithm of the number of nodes; there are 10 edges per node.
        seed: Random seed.
    """
    count, rng = 1 << scale, np.random.default_rng(seed)
    src, dst = rmat_edges(0, 10 * count, scale=scale, seed=seed)
    source, step = src % 4, rng.integers(0, 2, len(src))
    dst = dst - dst % 4 + (source + step) % 4
    labels = np.append(rng.integers(0, 16, count - 1), 15)
    return _graph(np.stack([src, dst]), 2 * source + step, labels, np.ones(count, np.int8))


def _graph(
    ends: NDArray[np.int64],
    types: NDArray[np.int64],
    labels: NDArray[Any],
    train: NDArray[np.int8],
) -> gt.Graph:
    """Return a graph whose features are the first values of the learned inputs."""
    x = np.random.default_rng(0).standard_normal((len(labels), WIDTH), np.float32) / 10
    known = pa.array(labels, mask=labels < 0)
    columns = {"features": matrix_column(x), "label:y": known, "split:split": pa.array(train)}
    nodes = {"id": pa.array(np.arange(len(labels))), **columns}
    edges = {"src": ends[0], "dst": ends[1], "type": types}
    return gt.Graph(pa.table(nodes), pa.table(edges))


def _measure(
    comparison: PeerComparison, about: dict[str, Any], hidden: int, bases: int
) -> tuple[list[str], float]:
    """Compare and time all libraries; return the cells of a row, and the largest difference."""
    options, folder = comparison.options, comparison.folder
    weights, names = str(folder / "weights.npz"), comparison.libraries
    sizes = {"hidden": hidden, "bases": bases or None}
    times: dict[str, Record] = {}
    cpu: dict[str, float] = {}
    taken: dict[str, Record] = {}
    built: dict[str, dict[str, Any]] = {}
    with comparison.started(*names) as workers:
        for name, worker in workers.items():
            loaded = worker.request("load", folder=str(folder))
            if about["edges"] * WIDTH * hidden * 4 > options.largest:
                loaded["forms"] = [form for form in loaded["forms"] if form != "fast-rgcn"]
            case = {"weights": weights, **sizes}
            built[name] = comparison.build(worker, loaded, **case)
            form = {"form": built[name]["form"], "allow_chunked": options.allow_chunked}
            worker.request("build", **form, **case)
            worker.request("save", path=str(folder / f"{name}.npz"))
        saved = (folder / f"{name}.npz" for name in (names[0], names[-1]))
        difference, what = largest_difference(*saved)
        for name, parts in comparison.time(workers).items():
            case = {"model": "rgcn", "library": name, **sizes, **about}
            more = built[name] | {"difference": difference}
            cpu[name] = float(np.median(parts["cpu"]))
            more["cpu_seconds"] = cpu[name]
            times[name] = comparison.record("typed", case, parts["epoch"], **more)
    for name in () if options.no_memory else names:
        with comparison.started(name) as workers:
            form = {"form": built[name]["form"], "allow_chunked": options.allow_chunked}
            case = {"weights": weights, **form, **sizes}
            size = memory(workers[name], folder, MEMORY_EPOCHS, **case)
        case = {"model": "rgcn", "library": name, **sizes, **about}
        taken[name] = comparison.record("typed", case, [size], unit="bytes", **form)
    cells = [about["graph"], str(hidden), str(bases or "-")]
    both = ("graphtheta", "pyg")
    cells += [*(milliseconds(times.get(name)) for name in both), ratio(times, TIME_BAR)]
    cells += [f"{cpu[name]:.2f}" if name in cpu else "-" for name in both]
    cells.append(f"{cpu[names[-1]] / cpu['graphtheta']:.2f} ({TIME_BAR:g})")
    cells += [*(megabytes(taken.get(name)) for name in both), ratio(taken, MEMORY_BAR)]
    return [*cells, f"{what} by {difference:.1e}" if difference > TOLERANCE else "no"], difference


if __name__ == "__main__":
    sys.exit(main())

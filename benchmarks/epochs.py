"""Time and memory of training epochs for GraphTheta, PyG and DGL, measured in one run.

    python benchmarks/epochs.py --peers-python PEERS/bin/python --data ../shared/data --plot e.png

An epoch is forward, loss, backward and a step of Adam on the whole graph. The graphs are RMAT
2^17 x 16 (128 features, 16 classes) and Amazon Computers, both with 16 random attributes per edge.
Models have two layers with 64 columns between them; attention has 4 heads of 16 columns, and the
last layer has one head. There is no dropout. All libraries start with the same weights, and outputs
and gradients are compared before anything is timed. GAT-E reads edge attributes in score and
message, as DGL's EdgeGATConv does. The closest layer of PyG is GATConv with `edge_dim`, which reads
them in the score only; it corresponds to `gat-edge`.

Memory is the peak resident memory while training in a separate process, minus what was resident
after the libraries and the graph were loaded. The peers load the graph in the form they train on,
so it is not counted; the in-edges and out-edges of GraphTheta are counted.

The table has one row per graph and model: median time in ms (± half the range from p10 to p90, and
the fastest form of the library), speed-up over the fastest peer, memory in MB, and memory of the
most economical peer relative to GraphTheta. Numbers in parentheses are the ratios to reach ("bar").
"differs" lists peers whose results do not match; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
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
from graphtheta.bench.graphs import rmat_graph
from graphtheta.bench.record import Record
from graphtheta.data.schema import matrix_column

BARS = {"gcn": 1.3, "sage": 1.3, "gat": 2.5, "gatv2": 3.0, "gat-edge": 5.0, "gat-e": 5.0}
MEMORY_BAR = 2.0
# Peers that compute exactly the same. The others run their closest model, or have none.
SAME = dict.fromkeys(("gcn", "sage", "gat", "gatv2"), ("pyg", "dgl"))
SAME |= {"gat-edge": ("pyg",), "gat-e": ("dgl",)}
SAME_FORM = {("gcn", "dgl"): "edge-weight"}  # if the fastest form differs slightly
MISSING = {("gat-edge", "dgl")}
MEMORY_EPOCHS = 3


@dataclass
class Row:
    """Row of the table: time and memory records of each library for one model on one graph."""

    graph: dict[str, Any]
    model: str
    time: dict[str, Record] = field(default_factory=dict)
    memory: dict[str, Record] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Run all cases, print the table, and return 1 if the results of a peer differ."""
    options = _options()
    peers = tuple(filter(None, options.peers.split(",")))
    rows: list[Row] = []
    print(f"{options.threads} threads, medians of {options.runs} runs\n")
    head = ("graph", "model", *(f"{name} ms" for name in ("GraphTheta", *peers)), "x (bar)")
    head += (*(f"{name} MB" for name in ("GraphTheta", *peers)), "less memory (bar)", "differs")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    for name, graph in _graphs(options):
        about = {"graph": name, "nodes": graph.num_nodes, "edges": graph.num_edges}
        with written(graph) as folder:
            comparison = PeerComparison("epoch", folder, options, ("graphtheta", *peers))
            for model in options.models.split(","):
                row = _measure(comparison, about, model)
                rows.append(row)
                print(f"| {' | '.join(_cells(row, comparison.libraries))} |", flush=True)
    if options.plot:
        from peers.plots import draw_epochs

        draw_epochs([(row.time, row.memory) for row in rows], options.plot)
    return int(any(row.differs for row in rows))


def _options() -> argparse.Namespace:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(BARS), help=", ".join(BARS))
    parser.add_argument("--graphs", default="rmat,computers", help="rmat, computers")
    parser.add_argument("--scale", type=int, default=17, help="RMAT scale")
    parser.add_argument("--data", type=Path, help="folder with amazon-computers/")
    parser.add_argument("--no-memory", action="store_true", help="measure only time")
    return parser.parse_args()


def _graphs(options: argparse.Namespace) -> Iterator[tuple[str, gt.Graph]]:
    if "rmat" in options.graphs:
        yield f"rmat {options.scale} x 16", rmat_graph(options.scale, 16, edge_types=0)
    if "computers" in options.graphs:
        if options.data is None:
            sys.exit("epochs: expected --data for Amazon Computers, got none. Specify its folder.")
        graph = gt.datasets.npz.read(str(options.data / "amazon-computers"))
        attr = np.random.default_rng(0).standard_normal((graph.num_edges, 16), np.float32)
        edges = graph.edges.append_column("attr", matrix_column(attr))
        yield "Amazon Computers", gt.Graph(graph.nodes, edges)


def _measure(comparison: PeerComparison, about: dict[str, Any], model: str) -> Row:
    row = Row(about, model)
    names = [name for name in comparison.libraries if (model, name) not in MISSING]
    weights, allowed = str(comparison.folder / "weights.npz"), comparison.options.allow_chunked
    with comparison.started(*names) as workers:
        built = {}
        for name, worker in workers.items():
            loaded = worker.request("load", folder=str(comparison.folder))
            case = {"model": model, "weights": weights}
            built[name] = comparison.build(worker, loaded, **case)
            if name != "graphtheta" and name not in SAME[model]:
                continue
            if (model, name) in SAME_FORM:
                worker.request("build", form=SAME_FORM[model, name], **case)
            worker.request("save", path=str(comparison.folder / f"{name}.npz"))
            worker.request("build", form=built[name]["form"], allow_chunked=allowed, **case)
            saved = (comparison.folder / f"{n}.npz" for n in ("graphtheta", name))
            error, what = largest_difference(*saved)
            built[name] |= {"difference": error}
            if error > TOLERANCE:
                row.differs[name] = f"{what} of {name} by {error:.1e}"
        for name, parts in comparison.time(workers).items():
            case = {"model": model, "library": name, **about}
            row.time[name] = comparison.record("epochs", case, parts["epoch"], **built[name])
    for name in () if comparison.options.no_memory else names:
        with comparison.started(name) as workers:
            form = built[name]["form"]
            case = {"model": model, "weights": weights, "form": form, "allow_chunked": allowed}
            taken = memory(workers[name], comparison.folder, MEMORY_EPOCHS, **case)
        what = {"model": model, "library": name, **about}
        row.memory[name] = comparison.record("epochs", what, [taken], unit="bytes", form=form)
    return row


def _cells(row: Row, libraries: tuple[str, ...]) -> Iterator[str]:
    yield from (row.graph["graph"], row.model)
    yield from (milliseconds(row.time.get(name)) for name in libraries)
    yield ratio(row.time, BARS[row.model])
    yield from (megabytes(row.memory.get(name)) for name in libraries)
    yield ratio(row.memory, MEMORY_BAR)
    yield ", ".join(row.differs.values()) or "no"


if __name__ == "__main__":
    sys.exit(main())

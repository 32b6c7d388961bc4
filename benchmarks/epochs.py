"""Training epochs beside PyG and DGL in one run: forward, loss, backward, Adam's step.

    python benchmarks/epochs.py --peers-python PEERS/bin/python --data ../shared/data --plot e.png

On RMAT 2^17 x 16 with 128 features and 16 classes, and on Amazon Computers. Two layers, 64 columns
between them; attention has 4 heads of 16 and averages one head in the end; edges have 16 random
attributes. Dropout is 0, every worker starts with the same weights, and outputs and gradients
are compared before the clock starts. GAT-E reads edge attributes in score and message, as DGL's
EdgeGATConv does; PyG's nearest, GATConv with edge_dim, reads them in the score alone, and so does
GAT with edge attributes (`gat-edge`) of ours and PyG's.

Memory is that of training: the most that is resident, in a process of its own, beyond what was
resident when libraries and graph were loaded. The peers' graph in all forms that they train on is
part of that; our in- and out-edges count as ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peers.compare import (
    TOLERANCE,
    PeerComparison,
    arguments,
    better,
    largest_difference,
    memory,
    written,
)

import graphtheta as gt
from graphtheta.bench.graphs import rmat_graph
from graphtheta.bench.record import Record
from graphtheta.data.schema import matrix_column

BARS = {"gcn": 1.3, "sage": 1.3, "gat": 2.5, "gatv2": 3.0, "gat-edge": 5.0, "gat-e": 5.0}
MEMORY_BAR = 2.0
# Who computes the same; the others are the nearest they have, or have nothing.
SAME = dict.fromkeys(("gcn", "sage", "gat", "gatv2"), ("pyg", "dgl"))
SAME |= {"gat-edge": ("pyg",), "gat-e": ("dgl",)}
SAME_FORM = {("gcn", "dgl"): "edge-weight"}  # where the fastest form is a little different
MISSING = {("gat-edge", "dgl")}
MEMORY_EPOCHS = 3


@dataclass
class Row:
    """One model on one graph: the records of each library, of time and of memory."""

    graph: dict[str, Any]
    model: str
    time: dict[str, Record] = field(default_factory=dict)
    memory: dict[str, Record] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Run all, print the table, and return 1 if a worker computed something else."""
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
    parser.add_argument("--graphs", default="rmat,computers", help="which of both")
    parser.add_argument("--scale", type=int, default=17, help="of RMAT")
    parser.add_argument("--data", type=Path, help="folder of amazon-computers/")
    parser.add_argument("--no-memory", action="store_true", help="measure time alone")
    return parser.parse_args()


def _graphs(options: argparse.Namespace) -> Iterator[tuple[str, gt.Graph]]:
    if "rmat" in options.graphs:
        yield f"rmat {options.scale} x 16", rmat_graph(options.scale, 16, edge_types=0)
    if "computers" in options.graphs:
        if options.data is None:
            sys.exit("epochs: expected --data with Amazon Computers, got none. Name its folder.")
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
            ours, theirs = (comparison.folder / f"{n}.npz" for n in ("graphtheta", name))
            error, what = largest_difference(ours, theirs)
            built[name] |= {"difference": error}
            if error > TOLERANCE:
                row.differs[name] = f"{what} of {name} by {error:.1e}"
        for name, parts in comparison.time(workers).items():
            case = {"model": model, "library": name, **about}
            row.time[name] = comparison.record("epochs", case, parts["epoch"], **built[name])
    for name in () if comparison.options.no_memory else names:
        with comparison.started(name) as alone:
            form = built[name]["form"]
            case = {"model": model, "weights": weights, "form": form, "allow_chunked": allowed}
            taken = memory(alone[name], comparison.folder, MEMORY_EPOCHS, **case)
        what = {"model": model, "library": name, **about}
        row.memory[name] = comparison.record("epochs", what, [taken], unit="bytes", form=form)
    return row


def _cells(row: Row, libraries: tuple[str, ...]) -> Iterator[str]:
    yield from (row.graph["graph"], row.model)
    yield from (_ms(row.time.get(name)) for name in libraries)
    yield _times(row.time, BARS[row.model])
    yield from (_mb(row.memory.get(name)) for name in libraries)
    yield _times(row.memory, MEMORY_BAR)
    yield ", ".join(row.differs.values()) or "no"


def _times(records: Mapping[str, Record], bar: float) -> str:
    if len(records) < 2:
        return f"- ({bar:g})"
    peer, ratio = better(records)
    return f"{ratio:.2f} {peer} ({bar:g})"


def _ms(record: Record | None) -> str:
    if record is None:
        return "-"
    half = (record["p90"] - record["p10"]) / 2
    form = f" {record['form']}" if record["forms_seconds"] else ""
    return f"{1000 * record['median']:.0f} ± {1000 * half:.0f}{form}"


def _mb(record: Record | None) -> str:
    return "-" if record is None else f"{record['median'] / 1e6:.0f}"


if __name__ == "__main__":
    sys.exit(main())

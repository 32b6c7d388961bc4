"""Time of Gather+Sum and of attention layers for GraphTheta, torch CSR, DGL and PyG.

    python benchmarks/gather.py --peers-python PEERS/bin/python --plot gather.png

- Gather+Sum: forward pass, weighted and unweighted, on RMAT 2^19 x 16. GB/s are E x F x 4 bytes
  divided by the time; "of streaming" is their share of the memory bandwidth (triad) that is
  measured in the same run.
- Attention: one layer from 64 columns to 4 heads of 16, with 16 attributes per edge, forward and
  backward, on RMAT 2^17 x 16. `gat-e` reads attributes in score and message, as DGL's EdgeGATConv
  does; `gat-edge` (and PyG's GATConv) reads them in the score only.

The libraries run in turns. Results are compared for all cases without dropout; if they differ, the
exit status is 1. Each table has one row per case: medians (± half the range from p10 to p90) of
every library, and the speed-up over a peer with the ratio to reach in parentheses ("bar").
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from peers.compare import TOLERANCE, PeerComparison, arguments, better, largest_difference, written

from graphtheta import Graph
from graphtheta.bench.bandwidth import TRIAD_BYTES, triad_seconds
from graphtheta.bench.graphs import rmat_graph
from graphtheta.bench.record import Record, spread

SUM_BARS = {16: (1.3, 12.0), 64: (3.5, 12.0), 128: (3.5, 12.0), 256: (3.5, 12.0)}
ATTENTION_BAR = 5.0
# The peer that computes exactly the same as a layer. The others run their closest layer.
SAME = {"gat-edge": "pyg", "gat-e": "dgl"}


def main() -> int:
    """Run both parts, print the tables, and return 1 if the results of a peer differ."""
    options = _options()
    torch.set_num_threads(options.threads)
    peers = tuple(filter(None, options.peers.split(",")))
    records: list[Record] = []
    agreed = True
    if "sum" in options.parts:
        graph = rmat_graph(options.scale, 16, features=0, edge_features=0, edge_types=0)
        weight = np.random.default_rng(0).random(graph.num_edges, np.float32)
        weighted = Graph(graph.nodes, graph.edges.append_column("weight", pa.array(weight)))
        with written(weighted, weight=True) as folder:
            comparison = PeerComparison("gather", folder, options, ("graphtheta", "torch", *peers))
            found, same = _sums(comparison, weighted)
        records, agreed = [*records, *found], agreed and same
    if "attention" in options.parts:
        graph = rmat_graph(options.attention_scale, 16, features=0, edge_types=0)
        with written(graph) as folder:
            comparison = PeerComparison("attention", folder, options, ("graphtheta", *peers))
            found, same = _attention(comparison, graph)
        records, agreed = [*records, *found], agreed and same
    if options.plot:
        from peers.plots import draw_gather

        draw_gather(records, options.plot)
    return 0 if agreed else 1


def _options() -> argparse.Namespace:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--parts", default="sum,attention", help="sum, attention")
    parser.add_argument("--scale", type=int, default=19, help="RMAT scale for sums")
    parser.add_argument("--attention-scale", type=int, default=17, help="RMAT scale for attention")
    parser.add_argument("--widths", default="16,64,128,256", help="numbers of columns for sums")
    parser.add_argument(
        "--largest", type=float, default=3e9, help="run PyG only up to this many bytes of messages"
    )
    return parser.parse_args()


def _about(graph: Graph, scale: int) -> dict[str, Any]:
    return {"graph": f"rmat {scale} x 16", "nodes": graph.num_nodes, "edges": graph.num_edges}


# -- Gather+Sum -----------------------------------------------------------------------------------


def _sums(comparison: PeerComparison, graph: Graph) -> tuple[list[Record], bool]:
    options = comparison.options
    triad = triad_seconds(options.runs)
    streaming = TRIAD_BYTES / spread(triad)["median"]
    about = _about(graph, options.scale)
    records = [comparison.record("triad", {"kernel": "triad"}, triad, moved_bytes=TRIAD_BYTES)]
    print(f"Gather+Sum, {_title(graph, options)}; memory bandwidth {streaming / 1e9:.1f} GB/s.\n")
    names = ("ms", "GB/s", "of streaming", *(f"{name} ms" for name in comparison.libraries[1:]))
    _head(("F", "message", *names, "x torch (bar)", "x DGL (bar)"))
    agreed = True
    with comparison.started() as workers:
        loaded = {n: c.request("load", folder=str(comparison.folder)) for n, c in workers.items()}
        for width in map(int, options.widths.split(",")):
            gathered = 4 * width * graph.num_edges
            for weighted in (True, False):
                running = {
                    name: worker
                    for name, worker in workers.items()
                    if name != "pyg" or gathered <= options.largest
                }
                case = {"width": width, "weighted": weighted}
                built = {n: comparison.build(c, loaded[n], **case) for n, c in running.items()}
                times = comparison.time(running)
                agreed &= _results_match(running, comparison.folder)
                row = {
                    name: comparison.record(
                        "gather",
                        {"kernel": "sum", **case, "library": name, **about},
                        parts["forward"],
                        gathered_bytes=gathered,
                        streaming=streaming,
                        **built[name],
                    )
                    for name, parts in times.items()
                }
                records += row.values()
                _row(_sum_cells(row, comparison.libraries, width, weighted))
    print()
    return records, agreed


def _sum_cells(
    row: Mapping[str, Record], libraries: tuple[str, ...], width: int, weighted: bool
) -> Iterator[str]:
    record = row["graphtheta"]
    rate = record["gathered_bytes"] / record["median"]
    yield from (str(width), "weighted" if weighted else "plain", _ms(record))
    yield from (f"{rate / 1e9:.1f}", f"{100 * rate / record['streaming']:.0f} %")
    yield from (_ms(row[name]) if name in row else "-" for name in libraries[1:])
    for name, bar in zip(("torch", "dgl"), SUM_BARS.get(width, (3.5, 12.0)), strict=True):
        ratio = f"{row[name]['median'] / record['median']:.2f}" if name in row else "-"
        yield f"{ratio} ({bar:g})"


# -- attention ------------------------------------------------------------------------------------


def _attention(comparison: PeerComparison, graph: Graph) -> tuple[list[Record], bool]:
    options, about = comparison.options, _about(graph, comparison.options.attention_scale)
    print(f"Attention, 64 to 4 x 16, 16 edge attributes, {_title(graph, options)}.\n")
    names = (f"{name} ms" for name in comparison.libraries[1:])
    _head(("layer", "dropout", "forward", "backward", "both, ms", *names, "x fastest peer (bar)"))
    records: list[Record] = []
    agreed = True
    with comparison.started() as workers:
        loaded = {n: c.request("load", folder=str(comparison.folder)) for n, c in workers.items()}
        for layer, same in SAME.items():
            for dropout in (0.0, 0.6):
                weights = str(comparison.folder / "weights.npz")
                case = {"layer": layer, "dropout": dropout}
                built = {
                    n: comparison.build(c, loaded[n], weights=weights, **case)
                    for n, c in workers.items()
                }
                times = comparison.time(workers)
                if not dropout and same in workers:
                    pair = {name: workers[name] for name in ("graphtheta", same)}
                    agreed &= _results_match(pair, comparison.folder)
                row = {}
                for name, parts in times.items():
                    both = [f + b for f, b in zip(parts["forward"], parts["backward"], strict=True)]
                    whole = {**case, "library": name, **about}
                    row[name] = comparison.record(
                        "attention", whole, both, parts=parts, **built[name]
                    )
                records += row.values()
                _row(_attention_cells(row, comparison.libraries, layer, dropout))
    print()
    return records, agreed


def _attention_cells(
    row: Mapping[str, Record], libraries: tuple[str, ...], layer: str, dropout: float
) -> Iterator[str]:
    record = row["graphtheta"]
    yield from (layer, f"{dropout:g}")
    for part in ("forward", "backward"):
        yield f"{1000 * spread(record['parts'][part])['median']:.0f}"
    yield _ms(record)
    yield from (_ms(row[name]) for name in libraries[1:])
    peer, ratio = better(row) if len(row) > 1 else ("-", 0.0)
    yield f"{ratio:.2f} {peer} ({ATTENTION_BAR:g})"


# -- shared by both parts -------------------------------------------------------------------------


def _results_match(workers: Mapping[str, Any], folder: Path) -> bool:
    """Return whether the results of all workers match, and print those that differ."""
    paths = {name: folder / f"{name}.npz" for name in workers}
    for name, worker in workers.items():
        worker.request("save", path=str(paths[name]))
    agreed = True
    for name in paths.keys() - {"graphtheta"}:
        error, what = largest_difference(paths["graphtheta"], paths[name])
        if error > TOLERANCE:
            print(f"{name}: {what} differs by {error:.1e} of its norm", file=sys.stderr)
            agreed = False
    return agreed


def _title(graph: Graph, options: argparse.Namespace) -> str:
    size = f"{graph.num_nodes:,} nodes, {graph.num_edges:,} edges"
    return f"{size}, {options.threads} threads, medians of {options.runs} runs"


def _head(names: tuple[str, ...]) -> None:
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|", flush=True)


def _row(cells: Iterator[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _ms(record: Record) -> str:
    half = (record["p90"] - record["p10"]) / 2
    return f"{1000 * record['median']:.0f} ± {1000 * half:.0f}"


if __name__ == "__main__":
    sys.exit(main())

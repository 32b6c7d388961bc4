"""Speed of neighbourhood sampling for GraphTheta and DGL, measured in one run.

    python benchmarks/sampling.py --peers-python PEERS/bin/python --json FILE

A run draws 20 batches of 1,024 seed nodes on RMAT 2^19 x 16. Both libraries sample without
replacement, relabel the nodes they find, and return blocks with in-edges by destination; both
create out-edges only when backward needs them. The libraries draw different edges, so speed is
measured in drawn edges per second.

The table has one row per fan-outs: drawn edges per second and milliseconds per batch of both
libraries, and the speed-up over DGL with the ratio to reach in parentheses ("bar").
"""

from __future__ import annotations

import numpy as np
from peers.compare import PeerComparison, arguments, written

from graphtheta.bench.graphs import rmat_graph

BAR = 1.5
FANOUTS = ([10, 10], [15, 10, 5], [5, 10, 15])


def main() -> None:
    """Measure all cases and print the table."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=19, help="RMAT scale")
    options = parser.parse_args()
    graph = rmat_graph(options.scale, 16, features=1, edge_features=0, edge_types=0)
    about = {"graph": f"rmat {options.scale} x 16", "nodes": graph.num_nodes}
    print(f"{options.threads} threads, medians of {options.runs} runs of 20 batches\n")
    head = "| fanouts, from the input | M edges/s | DGL | ms per batch | DGL | x DGL (bar) |"
    print(f"{head}\n{'|---' * 6}|", flush=True)
    with written(graph) as folder:
        comparison = PeerComparison("sample", folder, options, ("graphtheta", "dgl"))
        for fanouts in FANOUTS:
            rates, times = {}, {}
            with comparison.started() as workers:
                built = {}
                for name, worker in workers.items():
                    loaded = worker.request("load", folder=str(folder))
                    built[name] = comparison.build(worker, loaded, fanouts=fanouts)
                for name, parts in comparison.time(workers).items():
                    seconds = np.array(parts["draw"])
                    edges = np.array(parts["edges"])
                    rates[name] = float(np.median(edges / seconds)) / 1e6
                    times[name] = 1000 * float(np.median(seconds)) / 20
                    case = {"library": name, "fanouts": fanouts, **about}
                    comparison.record(
                        "sampling", case, seconds.tolist(), edges=edges.tolist(), **built[name]
                    )
            rate, dgl_rate = rates["graphtheta"], rates["dgl"]
            print(
                f"| {', '.join(map(str, fanouts))} | {rate:.1f} | {dgl_rate:.1f} | "
                f"{times['graphtheta']:.2f} | {times['dgl']:.2f} | {rate / dgl_rate:.2f} ({BAR}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()

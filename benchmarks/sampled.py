"""Training on sampled neighbourhoods with GraphTheta, DGL and PyG, each with its own loader.

    python benchmarks/sampled.py --peers-python PEERS/bin/python --json FILE

A run is an epoch of 20 steps with 1,024 seed nodes each, on RMAT 2^19 x 16 with 128 features: draw,
collect features, forward, backward, Adam. The loaders of the peers run with and without a worker
process, and GraphTheta prepares batches before a step or in the background; the fastest form of
each library counts. PyG's loader needs torch-sparse or pyg-lib.

The table has one row per model and fan-outs: steps per second of each library, the speed-up over
the fastest peer, and the share of GraphTheta's preparation that background preparation hides.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from peers.compare import PeerComparison, arguments, better, written
from peers.worker import Worker

from graphtheta import Graph
from graphtheta.bench.graphs import rmat_graph

CASES = (("sage", [10, 10]), ("sage", [5, 10, 15]), ("gat", [10, 10]))
STEPS, BATCH = 20, 1024


def main() -> None:
    """Measure all cases and print the table."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=19, help="RMAT scale")
    options = parser.parse_args()
    graph = rmat_graph(options.scale, 16, edge_features=0, edge_types=0)
    split = np.zeros(graph.num_nodes, np.int8)
    split[np.random.default_rng(0).choice(graph.num_nodes, STEPS * BATCH, replace=False)] = 1
    position = graph.nodes.column_names.index("split:split")
    nodes = graph.nodes.set_column(position, "split:split", pa.array(split))
    graph = Graph(nodes, graph.edges)
    about = {"graph": f"rmat {options.scale} x 16", "nodes": graph.num_nodes}
    peers = tuple(filter(None, options.peers.split(",")))
    libraries = ("graphtheta", *peers)
    print(f"{options.threads} threads, steps/s of medians of {options.runs} runs\n")
    head = ("model", "fanouts, from the input", *libraries, "x fastest peer", "hidden")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    with written(graph) as folder:
        comparison = PeerComparison("steps", folder, options, libraries)
        for model, fanouts in CASES:
            records, built = {}, {}
            with comparison.started() as workers:
                for name, worker in workers.items():
                    loaded = worker.request("load", folder=str(folder))
                    built[name] = comparison.build(worker, loaded, model=model, fanouts=fanouts)
                for name, parts in comparison.time(workers).items():
                    case = {"library": name, "model": model, "fanouts": fanouts, **about}
                    records[name] = comparison.record(
                        "sampled", case, parts["steps"], **built[name]
                    )
                worker = workers["graphtheta"]
                hidden = share_hidden(worker, options.runs, model=model, fanouts=fanouts)
            speeds = [f"{STEPS / records[name]['median']:.1f}" for name in libraries]
            times = "{} {:.2f}".format(*better(records)) if peers else "-"
            cells = (model, ", ".join(map(str, fanouts)), *speeds, times, f"{hidden:.0%}")
            print(f"| {' | '.join(cells)} |", flush=True)


def share_hidden(worker: Worker, runs: int, **case: object) -> float:
    """Return by which share background preparation shortens the wait for batches."""
    waited = []
    for form in ("prefetch 0", "prefetch 2"):
        worker.request("build", form=form, allow_chunked=False, **case)
        found = [worker.request("run")["waited"] for _ in range(runs + 1)]
        waited.append(float(np.median(found[1:])))
    return 1 - waited[1] / waited[0]


if __name__ == "__main__":
    main()

"""Random configurations, each trained on several workers and compared with training on one.

    python benchmarks/stress.py --configurations 200 --seed 0

A configuration depends only on its number and the seed: strategy, fan-outs, partitioner, workers,
groups, model, graph and other options. It trains two epochs in double precision on workers that are
threads. Losses, weights and evaluation must match those of one worker that computes each step as a
single micro-batch. The script prints the result of each configuration, and for each one that
differs, fails or hangs the command that repeats it; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

import graphtheta as gt
from graphtheta.bench.record import append, provenance
from graphtheta.comm.communicator import Communicator
from graphtheta.data.schema import matrix_column
from graphtheta.datasets.generate import rmat_edges
from graphtheta.nn import (
    GAT,
    GATE,
    GCN,
    GIN,
    GIPA,
    RGCN,
    GATv2,
    GraphSAGE,
    GraphTransformer,
    Stack,
)
from graphtheta.partition import PARTITIONERS
from graphtheta.strategy import ClusterBatch, GlobalBatch, MiniBatch, Strategy

Array = NDArray[Any]
Edges = tuple[int, Array, Array]

_TOLERANCE = 1e-8  # relative to the largest number; rounding is about 1e-15
_COMPARED = ("losses", "weights", "evaluation")


# -- random choices -------------------------------------------------------------------------------


def _rmat(rng: np.random.Generator) -> Edges:
    return 64, *rmat_edges(0, 400, scale=6, seed=int(rng.integers(1 << 20)))


def _star(rng: np.random.Generator) -> Edges:
    leaves = np.arange(1, int(rng.integers(8, 40)))
    hub = np.zeros_like(leaves)
    return len(leaves) + 1, np.append(leaves, hub), np.append(hub, leaves)


def _lattice(rng: np.random.Generator) -> Edges:
    height, width = rng.integers(3, 9, 2)
    nodes = np.arange(height * width).reshape(height, width)
    pairs = [(nodes[1:], nodes[:-1]), (nodes[:, 1:], nodes[:, :-1])]
    one = np.concatenate([a.ravel() for a, _ in pairs])
    other = np.concatenate([b.ravel() for _, b in pairs])
    return nodes.size, np.append(one, other), np.append(other, one)


def _multi(rng: np.random.Generator) -> Edges:
    """Return few nodes with many edges, including parallel edges and self-loops."""
    return 12, *rng.integers(0, 12, (2, 150))


def _isolated(rng: np.random.Generator) -> Edges:
    """Return a graph most of whose nodes have no edge."""
    busy = rng.permutation(50)[:14]
    return 50, busy[rng.integers(0, 14, 70)], busy[rng.integers(0, 14, 70)]


def _tiny(rng: np.random.Generator) -> Edges:
    """Return a graph so small that some workers have no nodes or no edges."""
    return 8, *rng.integers(0, 8, (2, int(rng.integers(0, 8))))


_GRAPHS: dict[str, Callable[[np.random.Generator], Edges]] = {
    "rmat": _rmat,
    "star": _star,
    "lattice": _lattice,
    "multi": _multi,
    "isolated": _isolated,
    "tiny": _tiny,
}
_MODELS: dict[str, Callable[..., Stack]] = {
    "gcn": lambda **o: GCN(3, 6, 4, **o),
    "sage-mean": lambda **o: GraphSAGE(3, 6, 4, **o),
    "sage-max": lambda **o: GraphSAGE(3, 6, 4, aggregator="max", **o),
    "sage-min": lambda **o: GraphSAGE(3, 6, 4, aggregator="min", **o),
    "gin": lambda **o: GIN(3, 6, 4, **o),
    "gat": lambda **o: GAT(3, 4, 4, heads=2, **o),
    "gat-edges": lambda **o: GAT(3, 4, 4, heads=2, edge_dim=2, **o),
    "gatv2": lambda **o: GATv2(3, 4, 4, heads=2, edge_dim=2, **o),
    "gat-e": lambda **o: GATE(3, 4, 4, heads=2, edge_dim=2, **o),
    "rgcn": lambda **o: RGCN(3, 6, 4, num_relations=5, num_bases=2, **o),
    "transformer": lambda **o: GraphTransformer(3, 4, 4, heads=2, edge_dim=2, **o),
    "gipa": lambda **o: GIPA(3, 4, 4, heads=2, edge_dim=2, **o),
}


@dataclass(frozen=True)
class Configuration:
    """Model, graph and training options of one configuration.

    Attributes:
        number: Number that, with the seed, determines the configuration.
        graph: A key of `_GRAPHS`.
        method: Partitioner.
        undirected: Whether the reverse of every edge is added.
        share: Probability that a node is put into the training split; the others are in random
            splits.
        strategy: A key of `STRATEGIES`.
        options: Arguments of the strategy.
        communities: Number of given communities for cluster-batch; if 0, HANP finds them.
        model: A key of `_MODELS`; `layers`, `dropout` and `batch_norm` are its options.
        workers: Number of workers, in `groups` groups that compute a step in `micro_batches`.
    """

    number: int
    graph: str
    method: str
    undirected: bool
    share: float
    strategy: str
    options: dict[str, Any]
    communities: int
    model: str
    layers: int
    dropout: float
    batch_norm: bool
    optimizer: str
    workers: int
    groups: int
    micro_batches: int
    prefetch: int


def draw(seed: int, number: int) -> Configuration:
    """Draw the configuration with the given number."""
    rng = np.random.default_rng([seed, number])

    def one(choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    layers = one([1, 2, 2, 3])
    strategy = one(["global", "mini", "mini", "mini", "cluster", "cluster"])
    options: dict[str, Any] = {}
    if strategy == "mini":
        options["batch_size"] = one([1, 3, 8, 20, 1000])
        fanouts = one([None, [one([None, 1, 2, 5]) for _ in range(layers)]])
        if fanouts is not None:
            options |= {
                "fanouts": fanouts,
                "replace": one([False, True]),
                "weight": one([None, "weight"]),
            }
    elif strategy == "cluster":
        options |= {
            "clusters_per_batch": one([1, 2, 4, 100]),
            "boundary_hops": one([0, 0, 1, 2]),
            "renormalise": one([False, True]),
        }
    workers = one([1, 2, 3, 4, 4, 5, 6, 6, 7, 8])
    groups = one([g for g in range(1, workers + 1) if workers % g == 0])
    micro_batches = one([groups, groups + 1, 3 * groups])
    return Configuration(
        number=number,
        graph=one(list(_GRAPHS)),
        method=one(list(PARTITIONERS)),
        undirected=one([False, False, True]),
        share=one([0.05, 0.4, 1.0]),
        strategy=strategy,
        options=options,
        communities=one([0, 1, 3, 10, 30]),
        model=one(list(_MODELS)),
        layers=layers,
        dropout=one([0.0, 0.4]),
        batch_norm=one([False, False, True]) and micro_batches == 1,
        optimizer=one(["sgd", "adam"]),
        workers=workers,
        groups=groups,
        micro_batches=micro_batches,
        prefetch=one([0, 0, 1, 3]),
    )


def _graph(config: Configuration, seed: int) -> gt.Graph:
    rng = np.random.default_rng([seed, config.number, 1])
    num_nodes, src, dst = _GRAPHS[config.graph](rng)
    split = np.where(rng.random(num_nodes) < config.share, 1, rng.integers(0, 4, num_nodes))
    known = rng.random(num_nodes) < 0.8
    first = int(rng.integers(num_nodes))  # at least one training node with a label
    split[first], known[first] = 1, True
    nodes = {
        "id": pa.array(7 * rng.permutation(num_nodes) + 100),
        "features": matrix_column(rng.standard_normal((num_nodes, 3))),
        "label:y": pa.array(np.append(rng.integers(0, 4, num_nodes - 1), 3), mask=~known),
        "split:split": pa.array(split.astype(np.int8)),
    }
    edges = {
        "src": pa.array(np.asarray(src, np.int64)),
        "dst": pa.array(np.asarray(dst, np.int64)),
        "attr": matrix_column(rng.standard_normal((len(src), 2))),
        "type": pa.array(rng.integers(0, 5, len(src))),
        "weight": pa.array(rng.random(len(src))),
    }
    return gt.Graph(pa.table(nodes), pa.table(edges))


def _strategy(config: Configuration, num_nodes: int) -> Strategy:
    if config.strategy == "global":
        return GlobalBatch()
    if config.strategy == "mini":
        return MiniBatch(**config.options)
    rng = np.random.default_rng(config.number)
    communities = rng.integers(0, max(1, config.communities), num_nodes)
    return ClusterBatch(communities=communities if config.communities else "hanp", **config.options)


# -- training -------------------------------------------------------------------------------------


def train(config: Configuration, graph: gt.Graph, limit_s: float, *, single: bool) -> list[Array]:
    """Train, on one worker if `single`; return the losses, weights and evaluation of rank 0."""

    def work(comm: Communicator) -> list[Array]:
        grouped = gt.Groups(comm, 1 if single else config.groups)
        shard = gt.open_shard(
            graph,
            grouped.comm,
            method="node-hash" if single else config.method,
            undirected=config.undirected,
        )
        model = _MODELS[config.model](
            num_layers=config.layers,
            dropout=config.dropout,
            batch_norm=config.batch_norm,
            seed=config.number,
        )
        trainer = gt.Trainer(
            model.double(),
            shard,
            strategy=_strategy(config, graph.num_nodes),
            optimizer=config.optimizer,
            seed=config.number,
            evaluate_every=99,
            prefetch=0 if single else config.prefetch,
            groups=grouped,
            micro_batches=1 if single else config.micro_batches,
        )
        trainer.fit(2)
        found = trainer.evaluate()
        state = [t.flatten() for t in model.state_dict().values() if t.is_floating_point()]
        return [
            np.array(trainer.history.loss),
            torch.cat(state).numpy(),
            np.array([found[name] for name in sorted(found) if name.endswith("loss")]),
        ]

    return gt.run_local(work, workers=1 if single else config.workers, timeout_s=limit_s)


def difference(got: Array, want: Array) -> float:
    """Return the largest difference, relative to the largest number."""
    return float(np.abs(got - want).max() / max(1e-300, np.abs(want).max()))


def repeat(config: Configuration, seed: int, limit_s: float) -> dict[str, Any]:
    """Train a configuration on its workers and on one worker, and compare the results."""
    start = time.monotonic()
    try:
        graph = _graph(config, seed)
        got = train(config, graph, limit_s, single=False)
        want = train(config, graph, limit_s, single=True)
        found = dict(zip(_COMPARED, map(difference, got, want), strict=True))
        same = all(value < _TOLERANCE for value in found.values())
        result = "same" if same else "differs"
    except Exception as error:  # any error is the result of this configuration
        found, result = {}, f"{type(error).__name__}: {error}"
    return {"result": result, **found, "seconds": round(time.monotonic() - start, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configurations", type=int, default=200, help="number of configurations")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--only", type=int, help="number of the only configuration to run")
    parser.add_argument("--limit-s", type=float, default=120, help="timeout of a wait in seconds")
    parser.add_argument("--json", help="JSON Lines file to append records to")
    arguments = parser.parse_args()
    gt.tune(threads=1)
    only = arguments.only
    numbers = range(arguments.configurations) if only is None else [only]
    failed = []
    for number in numbers:
        config = draw(arguments.seed, number)
        command = f"python benchmarks/stress.py --seed {arguments.seed} --only {number}"
        if only is not None:
            print(config)
        # A hang outside of communication ends the program and prints the stacks of its threads.
        faulthandler.dump_traceback_later(3 * arguments.limit_s, exit=True)
        print(f"{number}: ", end="", flush=True)
        found = repeat(config, arguments.seed, arguments.limit_s)
        faulthandler.cancel_dump_traceback_later()
        print(found, flush=True)
        if found["result"] != "same":
            failed.append(command)
            print(f"repeat with: {command}", flush=True)
        record = {"benchmark": "stress", "seed": arguments.seed, "case": asdict(config), **found}
        append(arguments.json, [record | provenance(1)])
    print(f"{len(numbers) - len(failed)} of {len(numbers)} configurations match one worker")
    print("\n".join(failed))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

"""First values of node embeddings: how large they should be, on every task that learns them.

    python benchmarks/embeddings.py --data ../shared/data --seeds 3 --json RESULTS

`NodeEmbedding` draws its first values from U(-b, b). The table has a row for each task and a column
for each b: `unit` is sqrt(3 / channels), of vectors of length one; `third`, `tenth` and `hundredth`
are parts of it; `xavier` is sqrt(6 / (nodes + channels)), as `torch.nn.init.xavier_uniform_` and so
PyG's `Node2Vec`-like models use for a table of vectors. Each cell is the mean test metric over the
seeds, at the epoch with the best validation metric. The options are the defaults of the command
line: Adam, learning rate 0.01, weight decay 5e-4, dropout 0.5.

Tasks: signs of ratings of Bitcoin OTC with and without features of users (AUROC), pointers of
WordNet and triples of FB15k-237 (AUC of links), and classes of nodes of Cora, PubMed and Amazon
computers without features (accuracy).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import graphtheta as gt
from graphtheta.bench.record import append, provenance
from graphtheta.nn import GCN, RGCN, EdgeModel, GraphSAGE, NodeEmbedding, decoder_for
from graphtheta.shard.shard import Shard

BOUNDS: dict[str, Callable[[int, int], float]] = {
    "unit": lambda nodes, channels: math.sqrt(3 / channels),
    "third": lambda nodes, channels: math.sqrt(3 / channels) / 3,
    "tenth": lambda nodes, channels: math.sqrt(3 / channels) / 10,
    "hundredth": lambda nodes, channels: math.sqrt(3 / channels) / 100,
    "xavier": lambda nodes, channels: math.sqrt(6 / (nodes + channels)),
}


def main() -> None:
    """Run the selected tasks and print a table."""
    options = _options()
    gt.tune(threads=options.threads)
    names = options.bounds.split(",")
    print(f"| task | metric | {' | '.join(names)} |\n{'|---' * (len(names) + 2)}|")
    for task in options.tasks.split(","):
        cells, metric = [], ""
        for bound in names:
            found = [TASKS[task](options.data, bound, seed) for seed in range(options.seeds)]
            metric = found[0][0]
            values = [value for _, value in found]
            cells.append(f"{statistics.mean(values):.4f}")
            _record(options, {"task": task, "bound": bound}, {metric: values})
        print(f"| {task} | {metric} | {' | '.join(cells)} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--tasks", default=",".join(TASKS), help="tasks to run")
    parser.add_argument("--bounds", default=",".join(BOUNDS), help="bounds to compare")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--threads", type=int, default=1, help="threads")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    return parser.parse_args()


def _embedding(
    shard: Shard, channels: int, encoder: torch.nn.Module | None, bound: str, seed: int
) -> NodeEmbedding:
    """Return an embedding whose first values have the given bound."""
    embedding = NodeEmbedding(shard, channels, encoder, seed=seed)
    wanted = BOUNDS[bound](shard.manifest.num_nodes, channels)
    with torch.no_grad():
        embedding.weight *= wanted / embedding.weight.abs().max()
    return embedding


def _fit(
    model: torch.nn.Module, shard: Shard, task: Any, metric: str, epochs: int, seed: int
) -> tuple[str, float]:
    trainer = gt.Trainer(model, shard, task=task, weight_decay=5e-4, seed=seed, evaluate_every=5)
    return metric, float(trainer.fit(epochs)[f"test_{metric}"])


# -- signs of edges -------------------------------------------------------------------------------


@cache
def _otc(folder: Path, seed: int, features: bool) -> gt.Graph:
    whole = gt.Graph.from_source(gt.datasets.read(str(folder / "bitcoin-otc")))
    rating, size = whole.column("attr")[:, 0].astype(np.float64), whole.num_nodes
    split = np.random.default_rng(seed).choice([1, 2, 3], whole.num_edges, p=[0.8, 0.1, 0.1])
    train = split == 1
    columns = []
    for end in (whole.src[train], whole.dst[train]):
        count = np.bincount(end, minlength=size)
        mean = np.bincount(end, rating[train], size) / np.maximum(count, 1)
        columns += [np.log1p(count), mean]
    nodes = {"id": whole.nodes["id"]}
    if features:
        from graphtheta.data.schema import matrix_column

        nodes["features"] = matrix_column(np.column_stack(columns).astype(np.float32))
    edges = {
        "src": whole.src,
        "dst": whole.dst,
        "split:split": split.astype(np.int8),
        "label:sign": pa.array(rating > 0),
    }
    return gt.Graph(pa.table(nodes), pa.table(edges))


def _signs(data: Path, bound: str, seed: int, *, features: bool) -> tuple[str, float]:
    shard = gt.open_shard(_otc(data, seed, features))
    encoder = GraphSAGE(shard.num_features + 16, 32, 32, seed=seed)
    embedding = _embedding(shard, 16, encoder, bound, seed)
    model = EdgeModel(embedding, decoder_for("mlp", 32, hidden_channels=32, seed=seed))
    return _fit(model, shard, gt.EdgePrediction(), "auroc", 150, seed)


# -- links ----------------------------------------------------------------------------------------


def _with_pair_split(graph: gt.Graph, seed: int) -> gt.Graph:
    """Return the graph without features, both directions of a pair in the same split."""
    low, high = np.minimum(graph.src, graph.dst), np.maximum(graph.src, graph.dst)
    _, pair = np.unique(low * np.int64(graph.num_nodes) + high, return_inverse=True)
    split = np.random.default_rng(seed).choice([1, 2, 3], pair.max() + 1, p=[0.8, 0.1, 0.1])
    edges = {
        "src": graph.src,
        "dst": graph.dst,
        "type": graph.column("type"),
        "split:split": split[pair].astype(np.int8),
    }
    return gt.Graph(pa.table({"id": np.arange(graph.num_nodes)}), pa.table(edges))


@cache
def _wordnet(folder: Path, seed: int) -> gt.Graph:
    """Return the nouns of WordNet and the pointers between them."""
    whole = gt.Graph.from_source(gt.datasets.read(str(folder / "wordnet30")))
    noun = np.array([name.startswith("n") for name in whole.nodes["id"].to_pylist()])
    keep = noun[whole.src] & noun[whole.dst]
    new = np.cumsum(noun) - 1
    edges = {
        "src": new[whole.src[keep]],
        "dst": new[whole.dst[keep]],
        "type": whole.column("type")[keep],
    }
    nodes = pa.table({"id": np.arange(int(noun.sum()))})
    return _with_pair_split(gt.Graph(nodes, pa.table(edges)), seed)


@cache
def _fb15k237(folder: Path, seed: int) -> gt.Graph:
    parts = []
    for code, name in enumerate(("train", "valid", "test"), start=1):
        rows = np.loadtxt(folder / "fb15k237" / f"{name}2id.txt", np.int64, skiprows=1)
        parts.append(np.column_stack([rows[:, [0, 2, 1]], np.full(len(rows), code)]))
    src, relation, dst, split = np.concatenate(parts).T
    size = int(max(src.max(), dst.max())) + 1
    edges = {"src": src, "dst": dst, "type": relation, "split:split": split.astype(np.int8)}
    return gt.Graph(pa.table({"id": np.arange(size)}), pa.table(edges))


def _links(
    data: Path,
    bound: str,
    seed: int,
    *,
    graph: Callable[[Path, int], gt.Graph],
    relations: bool,
    epochs: int,
) -> tuple[str, float]:
    shard = gt.open_shard(graph(data, seed))
    number = shard.num_edge_types
    encoder = (
        RGCN(32, 32, 32, num_relations=number, num_bases=2, seed=seed)
        if relations
        else GCN(32, 32, 32, seed=seed)
    )
    decoder = (
        decoder_for("distmult", 32, num_relations=number, seed=seed)
        if relations
        else decoder_for("dot", 32, seed=seed)
    )
    model = EdgeModel(_embedding(shard, 32, encoder, bound, seed), decoder)
    relation = "type" if relations else None
    task = gt.LinkPrediction(relation=relation, candidates="all", ranking=False)
    return _fit(model, shard, task, "auc", epochs, seed)


# -- classes of nodes -----------------------------------------------------------------------------


@cache
def _bare(data: Path, name: str) -> gt.Graph:
    whole = gt.Graph.from_source(gt.datasets.read(str(data / name)))
    return gt.Graph(whole.nodes.drop_columns(["features"]), whole.edges)


def _classes(data: Path, bound: str, seed: int, *, name: str, epochs: int) -> tuple[str, float]:
    shard = gt.open_shard(_bare(data, name), undirected=False)
    model = _embedding(shard, 64, GCN(64, 16, shard.num_classes, seed=seed), bound, seed)
    return _fit(model, shard, gt.NodePrediction(), "accuracy", epochs, seed)


TASKS: dict[str, Callable[[Path, str, int], tuple[str, float]]] = {
    "otc-signs": lambda data, bound, seed: _signs(data, bound, seed, features=True),
    "otc-signs-bare": lambda data, bound, seed: _signs(data, bound, seed, features=False),
    "cora": lambda data, bound, seed: _classes(
        data, bound, seed, name="planetoid-cora", epochs=200
    ),
    "pubmed": lambda data, bound, seed: _classes(
        data, bound, seed, name="planetoid-pubmed", epochs=100
    ),
    "amazon": lambda data, bound, seed: _classes(
        data, bound, seed, name="amazon-computers/amazon_cs.npz", epochs=60
    ),
    "wordnet": lambda data, bound, seed: _links(
        data, bound, seed, graph=_wordnet, relations=False, epochs=25
    ),
    "wordnet-relations": lambda data, bound, seed: _links(
        data, bound, seed, graph=_wordnet, relations=True, epochs=15
    ),
    "fb15k237": lambda data, bound, seed: _links(
        data, bound, seed, graph=_fb15k237, relations=True, epochs=25
    ),
}


def _record(options: argparse.Namespace, case: dict[str, Any], found: dict[str, Any]) -> None:
    if options.json:
        record = {"benchmark": "embeddings", "case": case, **found, **provenance(options.threads)}
        append(options.json, [json.loads(json.dumps(record))])


if __name__ == "__main__":
    main()

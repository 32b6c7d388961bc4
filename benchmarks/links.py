"""Link prediction on FB15k-237 within a time limit, and edge signs on Bitcoin OTC.

    python benchmarks/links.py --data ../shared/data --peers-python PEERS/bin/python --seconds 1200

FB15k-237: three systems train for the same time with the same number of threads: R-GCN + DistMult
of GraphTheta (`rgcn`), DistMult of GraphTheta without an encoder (`distmult`), and R-GCN + DistMult
of PyG (`pyg`, in `peers/pyg_links.py`). Each learns a vector per entity; both R-GCNs have two
layers with the same number of bases. The reverse of every training edge carries messages as a
separate relation. The time limit covers training only, and the final weights are evaluated. The
same code ranks the results of all systems: filtered, both ends, ties get the mean of their ranks.
The table shows seconds, epochs, MRR and hits@k on the test split.

Bitcoin OTC: predict whether a rating is positive. User features are computed from training ratings
only, and a seed sets the random split of ratings (80 % training, 10 % validation, 10 % test). The
table shows the test AUROC of the model and of a baseline, the mean training rating that the rated
user has received.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

import graphtheta as gt
from graphtheta.bench.record import append, mean_and_deviation, provenance
from graphtheta.data.schema import classes_of, matrix_column
from graphtheta.datasets import bitcoin_otc, openke
from graphtheta.nn import (
    RGCN,
    DistMult,
    EdgeModel,
    GraphSAGE,
    NodeEmbedding,
    decoder_for,
)
from graphtheta.strategy import GlobalBatch, MiniBatch
from graphtheta.task.metrics.curve import area_under_curve
from graphtheta.task.pair_scorer import PairScorer
from graphtheta.task.ranking import Ranking

NAMES = ("mrr", "hits@1", "hits@3", "hits@10")


def main() -> None:
    """Run the selected parts and print a table for each."""
    options = _options()
    gt.tune(threads=options.threads)
    if "fb15k237" in options.parts:
        _fb15k237(options)
    if "bitcoin-otc" in options.parts:
        _bitcoin_otc(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--parts", default="fb15k237,bitcoin-otc", help="fb15k237, bitcoin-otc")
    parser.add_argument("--peers-python", help="interpreter with torch_geometric")
    parser.add_argument("--contenders", default="rgcn,distmult,pyg", help="systems on FB15k-237")
    parser.add_argument("--seconds", type=float, default=1200, help="training time per system")
    parser.add_argument("--channels", type=int, default=100, help="length of a vector")
    parser.add_argument("--bases", type=int, default=2, help="basis matrices of R-GCN")
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate")
    parser.add_argument("--batch-size", type=int, default=4096, help="edges per batch; 0: global")
    parser.add_argument("--fanouts", default="all", help="fan-outs of R-GCN, e.g. 10,10")
    parser.add_argument("--negatives", type=int, default=10, help="negatives per edge (GraphTheta)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds on Bitcoin OTC")
    parser.add_argument("--threads", type=int, default=2, help="threads per system")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    return parser.parse_args()


# -- FB15k-237 ------------------------------------------------------------------------------------


def _fb15k237(options: argparse.Namespace) -> None:
    given = openke.read(str(options.data / "fb15k237"))
    triples, num_nodes = _triples(given), given.num_nodes
    num_relations = len(classes_of(given.edges.schema.field("type")))
    graph = _graph(triples, num_nodes, num_relations)
    print("| FB15k-237 | seconds | epochs | " + " | ".join(f"test {n}" for n in NAMES), end=" |\n")
    print("|---" * (3 + len(NAMES)) + "|", flush=True)
    for name in options.contenders.split(","):
        if name == "pyg":
            found = _peer(triples, graph, num_nodes, num_relations, options)
        else:
            found = _graphtheta(name, graph, num_relations, options)
        cells = [f"{found[f'test_{n}']:.4f}" for n in NAMES]
        print(f"| {name} | {found['seconds']:.0f} | {found['epochs']} | {' | '.join(cells)} |")
        about = {key: vars(options)[key] for key in ("channels", "bases", "lr", "threads")}
        _record(options, "links", {"data": "fb15k237", "contender": name, **about}, found)


def _triples(graph: gt.Graph) -> NDArray[np.int64]:
    """Return (head, relation, tail, split) of all triples."""
    columns = graph.src, graph.column("type"), graph.dst, graph.column("split:split")
    return np.column_stack(columns).astype(np.int64)


def _graph(triples: NDArray[np.int64], num_nodes: int, num_relations: int) -> gt.Graph:
    """Return the triples as edges, with the reverses of training edges, which are in no split."""
    src, relation, dst, split = triples.T
    train = split == 1
    edges = {
        "src": np.concatenate([src, dst[train]]),
        "dst": np.concatenate([dst, src[train]]),
        "type": np.concatenate([relation, relation[train] + num_relations]),
        "split:split": np.concatenate([split, np.zeros(train.sum())]).astype(np.int8),
    }
    return gt.Graph(pa.table({"id": np.arange(num_nodes)}), pa.table(edges))


def _graphtheta(
    name: str, graph: gt.Graph, num_relations: int, options: argparse.Namespace
) -> dict[str, Any]:
    shard, width = gt.open_shard(graph), options.channels
    bases = {"num_relations": 2 * num_relations, "num_bases": options.bases}
    encoder = RGCN(width, width, width, dropout=0.2, **bases) if name == "rgcn" else None
    embedding = NodeEmbedding(shard, width, encoder)
    model = EdgeModel(embedding, DistMult(width, num_relations=2 * num_relations))
    fanouts = None if options.fanouts == "all" else [int(n) for n in options.fanouts.split(",")]
    size = options.batch_size
    strategy = MiniBatch(size, fanouts if encoder else None) if size else GlobalBatch()
    task = gt.LinkPrediction(relation="type", negatives=options.negatives, candidates="all")
    trainer = gt.Trainer(
        model, shard, task=task, strategy=strategy, lr=options.lr, evaluate_every=10**9
    )
    history = trainer.history
    while sum(history.epoch_seconds) < options.seconds:
        trainer.fit(len(history.loss) + 1)
    seconds, epochs = sum(history.epoch_seconds), len(history.loss)
    return {"seconds": seconds, "epochs": epochs, "loss": history.loss, **trainer.evaluate()}


def _peer(
    triples: NDArray[np.int64],
    graph: gt.Graph,
    num_nodes: int,
    num_relations: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train with PyG in a separate process, and rank with the weights it has learned."""
    with tempfile.TemporaryDirectory(prefix="graphtheta-benchmark-") as folder:
        sizes = {"num_nodes": num_nodes, "num_relations": num_relations}
        given = {key: vars(options)[key] for key in ("channels", "bases", "lr", "seconds")}
        train = triples[triples[:, 3] == 1, :3]
        np.savez(Path(folder) / "given.npz", train=train, **sizes, **given)
        script = Path(__file__).parent / "peers" / "pyg_links.py"
        command = [options.peers_python, str(script), folder, str(options.threads)]
        subprocess.run(command, check=True)
        learned = dict(np.load(Path(folder) / "learned.npz"))
    shard, width = gt.open_shard(graph), options.channels
    decoder = DistMult(width, num_relations=2 * num_relations)
    with torch.no_grad():
        decoder.relation[:num_relations] = torch.from_numpy(learned["relation"])
    z = torch.from_numpy(learned["z"])[shard.node_key_L.copy()]
    ranking = Ranking(shard, shard.edge_columns["type"].numpy(), 2 * num_relations)
    scorer = PairScorer(EdgeModel(torch.nn.Identity(), decoder), 2 * num_relations)
    split = shard.edge_columns["split:split"].numpy()
    found: dict[str, Any] = {}
    for name, code in (("val", 2), ("test", 3)):
        metrics = ranking(np.flatnonzero(split == code), z, scorer)
        found |= {f"{name}_{metric}": value for metric, value in metrics.items()}
    return {"seconds": float(learned["seconds"]), "epochs": int(learned["epochs"]), **found}


# -- Bitcoin OTC ----------------------------------------------------------------------------------


def _bitcoin_otc(options: argparse.Namespace) -> None:
    whole = bitcoin_otc.read(str(options.data / "bitcoin-otc"))
    areas, simple = [], []
    start = time.perf_counter()
    for seed in range(options.seeds):
        graph, received = _signs(whole, seed)
        shard = gt.open_shard(graph)
        encoder = NodeEmbedding(shard, 16, GraphSAGE(5 + 16, 32, 32, dropout=0.5, seed=seed))
        model = EdgeModel(encoder, decoder_for("mlp", 32, hidden_channels=32, seed=seed))
        trainer = gt.Trainer(
            model, shard, task=gt.EdgePrediction(), lr=0.01, weight_decay=5e-4, seed=seed,
            patience=50, evaluate_every=5,
        )  # fmt: skip
        areas.append(trainer.fit(150)["test_auroc"])
        test, sign = graph.column("split:split") == 3, graph.column("label:sign")
        scores = received[graph.dst]
        simple.append(
            area_under_curve(scores[test & sign], scores[test & ~sign], gt.communicator()).roc
        )
    seconds = time.perf_counter() - start
    print("\n| Bitcoin OTC, sign of a rating | test AUROC |\n|---|---|")
    for name, values in (("GraphSAGE + MLP", areas), ("mean rating received", simple)):
        mean, deviation = mean_and_deviation(values)
        print(f"| {name} | {mean:.4f} ± {deviation:.4f} ({len(values)} seeds) |")
    found = {"test_auroc": areas, "mean_received_auroc": simple, "seconds": seconds}
    _record(options, "links", {"data": "bitcoin-otc", "threads": options.threads}, found)


def _signs(whole: gt.Graph, seed: int) -> tuple[gt.Graph, NDArray[np.float64]]:
    """Return the graph labelled with rating signs, and the mean training rating of each user."""
    rating, size = whole.column("attr")[:, 0].astype(np.float64), whole.num_nodes
    rng = np.random.default_rng(seed)
    split = rng.choice([1, 2, 3], whole.num_edges, p=[0.8, 0.1, 0.1]).astype(np.int8)
    train = split == 1
    columns, means = [], []
    for end in (whole.src[train], whole.dst[train]):
        count = np.bincount(end, minlength=size)
        means.append(np.bincount(end, rating[train], size) / np.maximum(count, 1))
        columns += [np.log1p(count), means[-1]]
    negative = np.bincount(whole.dst[train], rating[train] < 0, size)
    features = np.column_stack([*columns, np.log1p(negative)]).astype(np.float32)
    nodes = {"id": whole.nodes["id"], "features": matrix_column(features)}
    edges = {
        "src": whole.src,
        "dst": whole.dst,
        "split:split": split,
        "label:sign": pa.array(rating > 0),
    }
    return gt.Graph(pa.table(nodes), pa.table(edges)), means[1]


def _record(
    options: argparse.Namespace, benchmark: str, case: dict[str, Any], found: dict[str, Any]
) -> None:
    if options.json:
        record = {"benchmark": benchmark, "case": case, **found, **provenance(options.threads)}
        append(options.json, [json.loads(json.dumps(record))])


if __name__ == "__main__":
    main()

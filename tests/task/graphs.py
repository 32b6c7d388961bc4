"""Graphs with splits, labels and types of edges, and training of edge tasks on them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.data.schema import matrix_column
from graphtheta.nn import GCN, RGCN, EdgeModel, NodeEmbedding, decoder_for
from graphtheta.strategy import Strategy
from graphtheta.task import Task
from tests.graphs import random_graph, to_graph

__all__ = ["COMMUNITIES", "N", "labelled", "planted", "train"]

N = 40
COMMUNITIES = np.random.default_rng(1).integers(0, 6, N) * 2


@cache
def labelled() -> gt.Graph:
    """Return a graph with self-loops, parallel edges, and reverse edges in other splits."""
    made = to_graph(random_graph(N, 260), dtype=np.float64)
    rng = np.random.default_rng(5)
    split = rng.choice([0, 1, 1, 1, 1, 2, 3], made.num_edges).astype(np.int8)
    missing = rng.random(made.num_edges) < 0.2
    edges = made.edges.append_column("split:split", pa.array(split))
    kinds = pa.array(rng.integers(0, 3, made.num_edges), mask=missing)
    return gt.Graph(made.nodes, edges.append_column("label:kind", kinds))


def planted(nodes: int = 160, groups: int = 4, seed: int = 0) -> gt.Graph:
    """Return planted communities, with many edges inside and few between them.

    The features do not depend on the communities. The label `up` is whether the first feature
    grows along the edge.
    """
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, nodes)
    src, dst = np.triu_indices(nodes, 1)
    chance = np.where(group[src] == group[dst], 0.25, 0.01)
    linked = rng.random(len(src)) < chance
    src, dst = src[linked], dst[linked]
    split = rng.choice([1, 1, 1, 1, 1, 1, 1, 1, 2, 3], len(src)).astype(np.int8)
    features = rng.standard_normal((nodes, 8)).astype(np.float32)
    table = {"id": np.arange(nodes), "features": matrix_column(features)}
    up = pa.array(features[src, 0] < features[dst, 0])
    edges = {"src": src, "dst": dst, "split:split": split, "label:up": up}
    return gt.Graph(pa.table(table), pa.table(edges))


def train(
    task: Task,
    strategy: Strategy,
    workers: int = 1,
    method: str = "node-hash",
    *,
    decoder: str = "distmult",
    outputs: int = 1,
    embedding: int = 0,
    epochs: int = 2,
) -> tuple[list[float], dict[str, float], NDArray[Any]]:
    """Return losses, metrics and outputs of the last weights, with float64 and dropout."""

    def job(comm: Communicator) -> Any:
        shard = gt.open_shard(labelled(), comm, method=method)
        related = decoder == "distmult"
        options = {"dropout": 0.3, "seed": 1}
        encoder: Any = (
            RGCN(3 + embedding, 6, 5, num_relations=5, **options)
            if related
            else GCN(3 + embedding, 6, 5, **options)
        )
        if embedding:
            encoder = NodeEmbedding(shard, embedding, encoder)
        scorer = decoder_for(decoder, 5, outputs=outputs, num_relations=5 * related, seed=2)
        model = EdgeModel(encoder, scorer).double()
        trainer = gt.Trainer(
            model, shard, task=task, strategy=strategy, optimizer="sgd", lr=0.1, evaluate_every=99
        )
        trainer.fit(epochs)
        weights = trainer.predict()
        return trainer.history.loss, trainer.evaluate(), weights

    losses, metrics, outputs_N = gt.run_local(job, workers=workers, timeout_s=60, check=True)
    return losses, metrics, outputs_N.numpy()

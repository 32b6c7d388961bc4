"""Runs of one job, and of groups with a service in the same process, on a small store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.nn import EdgeModel, NodeEmbedding, decoder_for
from graphtheta.partition import Plan, make_store
from graphtheta.shard.shard import Shard
from graphtheta.train.elastic.host import ParameterHost
from graphtheta.train.elastic.source import ParameterSource
from graphtheta.train.trainer import Trainer

__all__ = ["MODELS", "Result", "in_groups", "one_job", "small_store", "trainer_of"]

N, E = 120, 700
Result = tuple[dict[str, Any], dict[str, torch.Tensor]]


def small_store(folder: Path) -> Path:
    """Write a store of two parts whose nodes and edges have features, labels and splits."""
    rng = np.random.default_rng(0)
    src, dst = rng.integers(0, N, (2, E))
    nodes = {
        "id": pa.array(np.arange(N)),
        "features": pa.FixedSizeListArray.from_arrays(
            pa.array(rng.standard_normal(5 * N).astype(np.float32)), 5
        ),
        "label:y": pa.array(rng.integers(0, 3, N)),
        "split:split": pa.array(rng.integers(0, 3, N).astype(np.int8)),
    }
    edges = {
        "src": pa.array(src),
        "dst": pa.array(dst),
        "attr": pa.FixedSizeListArray.from_arrays(
            pa.array(rng.standard_normal(2 * E).astype(np.float32)), 2
        ),
        "split:split": pa.array((rng.random(E) < 0.2).astype(np.int8)),
    }
    make_store(gt.Graph(pa.table(nodes), pa.table(edges)), folder, Plan(2))
    return folder


def _gcn(shard: Shard) -> tuple[nn.Module, dict[str, Any]]:
    model = gt.nn.GCN(shard.num_features, 6, 3, dropout=0.3)
    return model, {"strategy": gt.MiniBatch(15, [3, 3])}


def _gate(shard: Shard) -> tuple[nn.Module, dict[str, Any]]:
    model = gt.nn.GATE(shard.num_features, 4, 3, edge_dim=2, dropout=0.3)
    return model, {"strategy": gt.MiniBatch(15), "clip": 0.5}


def _link(shard: Shard) -> tuple[nn.Module, dict[str, Any]]:
    encoder = gt.nn.GCN(shard.num_features + 4, 6, 6, dropout=0.1)
    model = EdgeModel(
        NodeEmbedding(shard, 4, encoder), decoder_for("dot", 6, hidden_channels=6, outputs=1)
    )
    task = gt.LinkPrediction(ranking=False)
    return model, {"task": task, "strategy": gt.MiniBatch(8, [2, 2]), "weight_decay": 1e-3}


MODELS: Mapping[str, Callable[[Shard], tuple[nn.Module, dict[str, Any]]]] = {
    "gcn": _gcn,
    "gate": _gate,
    "link": _link,
}


def trainer_of(name: str, store: Path, comm: Communicator, **options: Any) -> Trainer:
    """Return the trainer of a model by name."""
    shard = gt.open_shard(store, comm)
    model, more = MODELS[name](shard)
    if "parameters" not in options:
        options = {"schedule": "cosine", **options}
    return gt.Trainer(model, shard, **{"seed": 3, **more, **options})


def _result(trainer: Trainer, summary: dict[str, Any]) -> Result:
    whole = {
        name: values.clone()
        for name, values in trainer.model.state_dict().items()
        if "encoder.weight" not in name or trainer.comm.size == 1
    }
    return summary, whole


def one_job(name: str, store: Path, epochs: int, *, workers: int = 1, **options: Any) -> Result:
    """Train without a service."""

    def work(comm: Communicator) -> Result:
        trainer = trainer_of(name, store, comm, **options)
        return _result(trainer, trainer.fit(epochs))

    return gt.run_local(work, workers=workers, timeout_s=60)


def in_groups(
    name: str,
    store: Path,
    host: ParameterHost,
    groups: int,
    *,
    workers: int = 1,
    source: Callable[[], ParameterSource] | None = None,
) -> list[Result]:
    """Train in some groups of some workers, which are threads."""

    def work(comm: Communicator) -> Result:
        made = host if source is None else source()
        trainer = trainer_of(name, store, comm, parameters=made)
        return _result(trainer, trainer.fit())

    def group(_: int) -> Result:
        return gt.run_local(work, workers=workers, timeout_s=60)

    with ThreadPoolExecutor(groups) as threads:
        return list(threads.map(group, range(groups)))

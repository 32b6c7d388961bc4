"""Train graph neural networks on partitioned graphs, exactly, on any number of workers.

Names are imported when they are first used, so that programs that need no torch, such as
partitioning, never load it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphtheta.runtime.numba_cache import use_private_numba_cache

if TYPE_CHECKING:
    from graphtheta import datasets, nn, optim, partition, tgar
    from graphtheta.comm.groups import Groups
    from graphtheta.comm.launch import communicator, guarded
    from graphtheta.comm.threads import run_local
    from graphtheta.data import encode
    from graphtheta.data.graph import Graph
    from graphtheta.engine.client.parameters import ParameterClient
    from graphtheta.inference.label_propagation import correct_and_smooth, label_propagation
    from graphtheta.run.saved_run import load_run
    from graphtheta.runtime.tuning import tune
    from graphtheta.shard.open import open_shard
    from graphtheta.shard.shard import Shard
    from graphtheta.strategy import ClusterBatch, GlobalBatch, MiniBatch
    from graphtheta.task import EdgePrediction, LinkPrediction, NodePrediction
    from graphtheta.train.elastic.host import ParameterHost
    from graphtheta.train.gradients import broadcast_model, sum_gradients
    from graphtheta.train.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "ClusterBatch",
    "EdgePrediction",
    "GlobalBatch",
    "Graph",
    "Groups",
    "LinkPrediction",
    "MiniBatch",
    "NodePrediction",
    "ParameterClient",
    "ParameterHost",
    "Shard",
    "Trainer",
    "broadcast_model",
    "communicator",
    "correct_and_smooth",
    "datasets",
    "encode",
    "guarded",
    "label_propagation",
    "load_run",
    "nn",
    "open_shard",
    "optim",
    "partition",
    "run_local",
    "sum_gradients",
    "tgar",
    "tune",
]

_HOME = {
    "ClusterBatch": "graphtheta.strategy",
    "EdgePrediction": "graphtheta.task",
    "GlobalBatch": "graphtheta.strategy",
    "Graph": "graphtheta.data.graph",
    "Groups": "graphtheta.comm.groups",
    "LinkPrediction": "graphtheta.task",
    "MiniBatch": "graphtheta.strategy",
    "NodePrediction": "graphtheta.task",
    "ParameterClient": "graphtheta.engine.client.parameters",
    "ParameterHost": "graphtheta.train.elastic.host",
    "Shard": "graphtheta.shard.shard",
    "Trainer": "graphtheta.train.trainer",
    "broadcast_model": "graphtheta.train.gradients",
    "communicator": "graphtheta.comm.launch",
    "correct_and_smooth": "graphtheta.inference.label_propagation",
    "guarded": "graphtheta.comm.launch",
    "label_propagation": "graphtheta.inference.label_propagation",
    "load_run": "graphtheta.run.saved_run",
    "open_shard": "graphtheta.shard.open",
    "run_local": "graphtheta.comm.threads",
    "sum_gradients": "graphtheta.train.gradients",
    "tune": "graphtheta.runtime.tuning",
}


use_private_numba_cache()  # before a module with compiled functions is imported


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in __all__:
        return importlib.import_module(f"graphtheta.{'data.' * (name == 'encode')}{name}")
    raise AttributeError(f"module 'graphtheta' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

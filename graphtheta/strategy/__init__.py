"""Strategies: which nodes are the targets of a step, and which are active at each layer."""

from typing import Any

from graphtheta.strategy.batch import Batch, Step, Steps, Strategy
from graphtheta.strategy.cluster_batch import ClusterBatch
from graphtheta.strategy.global_batch import GlobalBatch
from graphtheta.strategy.label_propagation import LabelPropagation
from graphtheta.strategy.mini_batch import MiniBatch

__all__ = [
    "STRATEGIES",
    "Batch",
    "ClusterBatch",
    "GlobalBatch",
    "LabelPropagation",
    "MiniBatch",
    "Step",
    "Steps",
    "Strategy",
]

STRATEGIES: dict[str, Any] = {
    "global": GlobalBatch,
    "mini": MiniBatch,
    "cluster": ClusterBatch,
}

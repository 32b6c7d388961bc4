"""Strategies: which targets make up a step, and which nodes each layer computes for them."""

from typing import Any

from graphtheta.strategy.batch import Batch, Step, Steps, Strategy
from graphtheta.strategy.cluster_batch import ClusterBatch
from graphtheta.strategy.global_batch import GlobalBatch
from graphtheta.strategy.label_propagation import LabelPropagation
from graphtheta.strategy.mini_batch import MiniBatch
from graphtheta.strategy.targets import NodeTargets, StepTargets, Targets

__all__ = [
    "STRATEGIES",
    "Batch",
    "ClusterBatch",
    "GlobalBatch",
    "LabelPropagation",
    "MiniBatch",
    "NodeTargets",
    "Step",
    "StepTargets",
    "Steps",
    "Strategy",
    "Targets",
]

STRATEGIES: dict[str, Any] = {"global": GlobalBatch, "mini": MiniBatch, "cluster": ClusterBatch}

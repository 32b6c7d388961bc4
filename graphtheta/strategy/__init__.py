"""Strategies: which nodes are the targets of a step, and which are active at each layer."""

from graphtheta.strategy.batch import Batch
from graphtheta.strategy.global_batch import GlobalBatch

__all__ = ["STRATEGIES", "Batch", "GlobalBatch"]

STRATEGIES: dict[str, type[GlobalBatch]] = {"global": GlobalBatch}

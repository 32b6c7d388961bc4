"""Tasks: node prediction, edge prediction and link prediction."""

from typing import Any

from graphtheta.task.base import BoundTask, Task
from graphtheta.task.edge import EdgePrediction
from graphtheta.task.link import LinkPrediction
from graphtheta.task.node import NodePrediction

__all__ = ["TASKS", "BoundTask", "EdgePrediction", "LinkPrediction", "NodePrediction", "Task"]

TASKS: dict[str, Any] = {"node": NodePrediction, "edge": EdgePrediction, "link": LinkPrediction}

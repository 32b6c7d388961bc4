"""Tasks: what a model learns, of nodes, of edges, or which edges there are."""

from typing import Any

from graphtheta.task.base import Goal, Task
from graphtheta.task.edge import EdgePrediction
from graphtheta.task.link import LinkPrediction
from graphtheta.task.node import NodePrediction

__all__ = ["TASKS", "EdgePrediction", "Goal", "LinkPrediction", "NodePrediction", "Task"]

TASKS: dict[str, Any] = {
    "node": NodePrediction,
    "edge": EdgePrediction,
    "link": LinkPrediction,
}

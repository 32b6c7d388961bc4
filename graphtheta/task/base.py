"""Interface between the trainer and a task."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, Protocol

from torch import Tensor, nn

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import GraphFormatError
from graphtheta.partition.store.manifest import LabelSpec
from graphtheta.shard.shard import Shard
from graphtheta.strategy import Targets
from graphtheta.task.metrics import MainMetric

__all__ = ["SPLITS", "BoundTask", "Task", "count_splits"]

SPLITS = {"train": 1, "val": 2, "test": 3}


def count_splits(
    splits: Mapping[str, Sized], comm: Communicator, expected: str = "targets"
) -> dict[str, int]:
    """Return the number of targets in each split, over all workers; collective.

    Args:
        splits: This worker's targets, by name of the split.
        comm: The workers.
        expected: Description of the training targets.

    Raises:
        GraphFormatError: If there is a training split, and it has no targets.
    """
    counts = {
        name: int(comm.all_gather_int(len(rows), stage="count targets").sum())
        for name, rows in splits.items()
    }
    if not counts.get("train", 1):
        raise GraphFormatError(f"trainer: expected {expected}, got none. Put some of them in it.")
    return counts


class BoundTask(Protocol):
    """Task of one model on one shard."""

    @property
    def message_shard(self) -> Shard:
        """Shard whose edges carry messages during training."""

    @property
    def targets(self) -> Targets:
        """Training targets."""

    @property
    def spec(self) -> LabelSpec:
        """Kind and size of the label that the model predicts."""

    @property
    def metric(self) -> MainMetric:
        """Metric for early stopping and for the choice of the best epoch."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of targets of each split over all workers, by name of the split."""

    @property
    def resolved(self) -> dict[str, str]:
        """Names in use, by option (label, split, relation), also if the user gave none."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the metrics of this graph misleading, a line each."""

    def check(self, outputs: Tensor) -> None:
        """Raise a ConfigError if the model's outputs, (M, F) or (O, F), do not fit the task."""

    def evaluate(self) -> dict[str, float]:
        """Return loss and metrics of all splits, with dropout off; collective."""

    def report(self) -> dict[str, Any]:
        """Return what `report.json` shows of the validation and test splits; collective.

        It is empty if there is nothing to show.
        """


class Task(Protocol):
    """Objective of training.

    A task holds options only, so that one object can serve any number of trainers.
    """

    def bind(self, model: nn.Module, shard: Shard, seed: int) -> BoundTask:
        """Return the task of a model on a shard; collective.

        Args:
            model: Model to train.
            shard: Graph to train on.
            seed: Random seed for negatives.

        Raises:
            ConfigError: If an option does not fit the graph or the model.
            GraphFormatError: If there are no training targets.
        """

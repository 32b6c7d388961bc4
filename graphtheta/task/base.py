"""What the trainer asks of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Protocol

from torch import Tensor, nn

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.store.manifest import LabelSpec
from graphtheta.shard.shard import Shard
from graphtheta.strategy import Targets
from graphtheta.task.metrics import MainMetric

__all__ = ["SPLITS", "BoundTask", "Task", "count_splits"]

SPLITS = {"train": 1, "val": 2, "test": 3}


def count_splits(held: Mapping[str, Sized], comm: Communicator) -> dict[str, int]:
    """Return how much all workers together hold of each split; collective."""
    return {
        name: int(comm.all_gather_int(len(rows), stage="count targets").sum())
        for name, rows in held.items()
    }


class BoundTask(Protocol):
    """A task of one model on one shard."""

    @property
    def messages(self) -> Shard:
        """The shard whose edges carry messages while training."""

    @property
    def targets(self) -> Targets:
        """What is trained on."""

    @property
    def spec(self) -> LabelSpec:
        """What a model that has learned it predicts."""

    @property
    def metric(self) -> MainMetric:
        """What early stopping and the best epoch go by."""

    @property
    def chosen(self) -> dict[str, str]:
        """What was left to the graph to say, by the name of its option: label and split."""

    def check(self, outputs: Tensor) -> None:
        """Raise a ConfigError if the model's outputs do not fit; (M, F) or (O, F)."""

    def evaluate(self) -> dict[str, float]:
        """Return loss and metrics of the splits, dropout off; collective."""


class Task(Protocol):
    """What is learned: options alone, so that one can serve any number of trainers."""

    def bind(self, model: nn.Module, shard: Shard, seed: int) -> BoundTask:
        """Return the task of a model on a shard; collective.

        Args:
            model: What learns it.
            shard: Storage.
            seed: Of what is drawn for evaluation.

        Raises:
            ConfigError: If an option does not fit the graph or the model.
            GraphFormatError: If there is nothing to train on.
        """

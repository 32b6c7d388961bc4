"""A finished run, loaded from its folder: configuration, recipe, graph, task and model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.data.encode.recipe import Recipe
from graphtheta.partition import LabelSpec
from graphtheta.run.build import task_of
from graphtheta.run.config import RunConfig
from graphtheta.run.open_graph import open_graph
from graphtheta.run.resolve import load_config
from graphtheta.run.run import load_model, read_label, recipe_of
from graphtheta.shard.shard import Shard
from graphtheta.task import EdgePrediction, LinkPrediction, NodePrediction
from graphtheta.train.run_dir import RunDirectory

__all__ = ["SavedRun", "load_run"]


@dataclass(frozen=True)
class SavedRun:
    """Run of `graphtheta train`, to continue with in Python.

    Attributes:
        folder: Its folder (`--run-dir`).
        config: All options that it was started with.
        recipe: How its input columns became features; None for a run of an earlier version.
        label: Kind of its label, and the number and names of its classes.
    """

    folder: Path
    config: RunConfig
    recipe: Recipe | None
    label: LabelSpec

    @property
    def task(self) -> NodePrediction | EdgePrediction | LinkPrediction:
        """What the run learned."""
        return task_of(self.config)

    def open_shard(
        self, source: str | None = None, comm: Communicator | None = None, *, device: str = "cpu"
    ) -> Shard:
        """Open the input of the run, or another one in the same way; collective.

        Tables are partitioned and encoded as those of the run.

        Args:
            source: A store, a bundled data set, or tables. If None, the input of the run.
            comm: The workers. If None, this process only.
            device: "cpu" or "cuda".
        """
        workers = comm or SingleCommunicator()
        return open_graph(self.config, source or self.config.input, workers, device, self.recipe)

    def model(self, shard: Shard) -> nn.Module:
        """Return the model with the best weights of the run, for predictions; collective.

        Args:
            shard: The graph that it will run on, such as `open_shard()`.

        Raises:
            ConfigError: If the run has no weights yet, or the graph has other columns or types.
        """
        return load_model(self.config, self.folder, shard)[0].eval()


def load_run(folder: Path | str) -> SavedRun:
    """Return a run from its folder; not collective.

    Args:
        folder: Folder of the run (`--run-dir` of `graphtheta train`).

    Raises:
        ConfigError: If the folder holds no run, or a file in it is damaged.
    """
    path = Path(folder)
    config = load_config(path)
    label = read_label(RunDirectory(path, resume=True).label)
    return SavedRun(path, config, recipe_of(path), label)

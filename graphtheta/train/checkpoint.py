"""Checkpoints: weights, optimiser state and progress of a run, from which it can continue.

Random draws are counter-based, so that the number of epochs replaces the state of a generator. A
run can continue on any number of workers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import is_sharded
from graphtheta.runtime.atomic import partial_path
from graphtheta.shard.shard import Shard
from graphtheta.train.check_state import check_optimizer, check_weights, read_progress
from graphtheta.train.history import History
from graphtheta.train.weights import load_weights, read_tensors, save_tensors, save_weights

__all__ = ["latest_checkpoint", "load_checkpoint", "save_checkpoint"]

_NUM_KEPT = 2  # the previous checkpoint as well, in case the disk fails under the last one


def save_checkpoint(
    directory: Path,
    epoch: int,
    model: nn.Module,
    shard: Shard,
    best: Mapping[str, Tensor] | None,
    optimizer: torch.optim.Optimizer,
    history: History,
    seed: int,
) -> None:
    """Write the checkpoint `directory/epoch-000010`, and delete all but the last two; collective.

    Args:
        directory: Directory of the run's checkpoints.
        epoch: Number of finished epochs.
        model: Model whose parameters and buffers are saved.
        shard: Graph that the model is trained on.
        best: Weights of the best epoch so far, or None if there is none.
        optimizer: Optimiser whose state is saved.
        history: History of the run.
        seed: Random seed of the run.
    """
    comm = shard.comm
    target = directory / f"epoch-{epoch:06d}"
    partial = partial_path(target)
    if comm.rank == 0:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    comm.barrier(stage="checkpoint directory")
    save_weights(model, shard, partial / "model.safetensors")
    if best is not None:
        save_weights(model, shard, partial / "best.safetensors", best)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors, numbers, sharded = {}, {}, set()
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            key = f"{index}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
                if is_sharded(parameters[index]) and value.dim():
                    sharded.add(key)
            else:
                numbers[key] = value
    save_tensors(tensors, sharded, shard, partial / "optimizer.safetensors")
    if comm.rank == 0:
        progress = {
            "epoch": epoch,
            "optimizer": numbers,
            "history": vars(history),
            "seed": seed,
            "graph": _graph_size(shard),
        }
        (partial / "progress.json").write_text(json.dumps(progress) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in sorted(directory.glob("epoch-*"))[:-_NUM_KEPT]:
            shutil.rmtree(old)
    comm.barrier(stage="checkpoint")


def latest_checkpoint(directory: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None."""
    return max(directory.glob("epoch-*"), default=None)


def load_checkpoint(
    path: Path, model: nn.Module, shard: Shard, optimizer: torch.optim.Optimizer, seed: int
) -> tuple[int, History, dict[str, Tensor] | None]:
    """Load a checkpoint into a model and its optimiser.

    Returns:
        Number of finished epochs, history of the run, and weights of the best epoch so far.

    Raises:
        ConfigError: If the checkpoint is damaged, or was written with another model, seed or graph.
    """
    load_weights(model, shard, path / "model.safetensors")
    progress = read_progress(path / "progress.json")
    best_path, optimizer_path = path / "best.safetensors", path / "optimizer.safetensors"
    best = read_tensors(shard, best_path) if best_path.exists() else None
    if best is not None:
        check_weights(best, model.state_dict(), best_path)
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**read_tensors(shard, optimizer_path), **progress.optimizer}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index) if index.isdecimal() else -1, {})[key] = value
    check_optimizer(state, optimizer, optimizer_path)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if progress.seed != seed:
        raise ConfigError(
            f"{path}: expected a run with seed {seed}, got one with seed {progress.seed}. Use "
            "the same seed."
        )
    if progress.graph != _graph_size(shard):
        raise ConfigError(
            f"{path}: expected a run on a graph of {_graph_size(shard)}, got one on a graph of "
            f"{progress.graph}. Use the graph of that run."
        )
    return progress.epoch, progress.history, best


def _graph_size(shard: Shard) -> str:
    manifest = shard.manifest
    return f"{manifest.num_nodes:,} nodes and {manifest.num_edges:,} edges"

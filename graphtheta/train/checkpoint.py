"""Checkpoints: weights, optimiser state and progress of a run, from which it can continue.

Random draws are counter-based, so that the number of epochs replaces the state of a generator. A
run can continue on any number of workers.

A checkpoint is a folder. It is written under a temporary name, with a list of its files and their
hashes, and is renamed when it is on the disk. A checkpoint is whole if its files have these hashes.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import ShardedParameter
from graphtheta.optim.learning_rate import LearningRate
from graphtheta.optim.row_optimizer import RowOptimizer
from graphtheta.runtime.atomic import disk_errors, partial_path, rename_durably, sync_all
from graphtheta.shard.fingerprint import graph_fingerprint
from graphtheta.shard.shard import Shard
from graphtheta.train.check_state import (
    check_kind,
    check_optimizer,
    check_weights,
    read_progress,
)
from graphtheta.train.history import History, PartialEpoch
from graphtheta.train.weights import (
    file_hash,
    load_weights,
    read_tensors,
    save_tensors,
    sharded_names,
    storage_of,
)
from graphtheta.wording import counted

__all__ = [
    "Captured",
    "InFlight",
    "RunState",
    "capture",
    "latest_checkpoint",
    "load_checkpoint",
    "remove_old_checkpoints",
    "save_checkpoint",
    "write_checkpoint",
]

_log = logging.getLogger(__name__)

_NUM_KEPT = 2  # the previous checkpoint as well, in case the disk fails under the last one
_FOLDER = r"epoch-([0-9]{6,})(?:-step-([0-9]{6,}))?"
_FILES = "files.json"  # hashes of the other files, by name
_PROGRESS = "progress.json"
_BEST, _VERSIONS = "best.safetensors", "versions.safetensors"
_UNCHANGED = {_BEST, _VERSIONS}  # files of tensors that later steps do not change
_MISSED = "missed"  # number of updates that each learned row has missed


@dataclass(frozen=True)
class InFlight:
    """Versions of the parameters that the steps and evaluations of a parameter service refer to.

    Attributes:
        numbers: What JSON can hold.
        tensors: Tensors by name.
    """

    numbers: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass
class RunState:
    """State of a run, which a checkpoint saves and restores.

    Attributes:
        model: Model whose parameters and buffers are saved.
        shard: Graph that the model is trained on.
        optimizer: Optimiser whose state is saved.
        seed: Random seed of the run.
        epochs: Number of finished epochs.
        history: History of the run.
        best: Weights of the best epoch so far, or None if there is none.
        rate: Learning rate of the optimiser, whose state is saved; None for a constant one.
        part: Part of the next epoch that is trained.
        rows: Optimiser of the learned rows. A checkpoint saves which updates they have missed: to
            make up for them then would change the rounding of later ones.
        in_flight: What a parameter service keeps in addition.
    """

    model: nn.Module
    shard: Shard
    optimizer: torch.optim.Optimizer
    seed: int
    epochs: int = 0
    history: History = field(default_factory=History)
    best: dict[str, Tensor] | None = None
    rate: LearningRate | None = None
    part: PartialEpoch = field(default_factory=PartialEpoch)
    rows: RowOptimizer | None = None
    in_flight: InFlight | None = None


@dataclass(frozen=True)
class Captured:
    """State of a run as a checkpoint holds it, which can be written while training goes on.

    Attributes:
        done: Number of finished epochs, and of steps of the next one.
        files: Tensors of each file by name, and the names of those that have one row per master
            with the node type whose masters these are.
        progress: Content of `progress.json`.
        shard: Graph that the model is trained on.
    """

    done: tuple[int, int]
    files: dict[str, tuple[dict[str, Tensor], dict[str, str | None]]]
    progress: dict[str, Any]
    shard: Shard

    @property
    def name(self) -> str:
        """Name of the folder."""
        epochs, steps = self.done
        return f"epoch-{epochs:06d}" + (f"-step-{steps:06d}" if steps else "")

    def copy(self) -> Captured:
        """Return a copy that later steps do not change."""
        files = {
            name: (
                tensors if name in _UNCHANGED else {n: t.clone() for n, t in tensors.items()},
                by,
            )
            for name, (tensors, by) in self.files.items()
        }
        return replace(self, files=files, progress=json.loads(json.dumps(self.progress)))


def save_checkpoint(directory: Path, state: RunState) -> None:
    """Write the checkpoint `directory/epoch-000010`, and delete all but the last two; collective.

    One within an epoch is `epoch-000010-step-000200`. Only one run may write to the directory.

    Args:
        directory: Directory of the run's checkpoints.
        state: State of the run.

    Raises:
        ConfigError: If the checkpoint cannot be written. Earlier checkpoints are kept.
    """
    write_checkpoint(directory, capture(state))


def write_checkpoint(directory: Path, captured: Captured) -> None:
    """Write a state as `save_checkpoint` does; collective.

    Raises:
        ConfigError: If the checkpoint cannot be written. Earlier checkpoints are kept.
    """
    comm = captured.shard.comm
    target = directory / captured.name
    partial = _temporary(directory)
    with disk_errors(target, "a checkpoint", ConfigError):
        try:
            if comm.rank == 0:
                _remove(partial)  # of a killed run
                partial.mkdir(parents=True)
            comm.barrier(stage="checkpoint directory")
            hashes = _write_files(partial, captured)
            if comm.rank == 0:
                (partial / _FILES).write_text(json.dumps(hashes, indent=1) + "\n")
                sync_all(partial)
                if target.exists():  # damaged, or saved by hand
                    _remove(target)
                rename_durably(partial, target)
                remove_old_checkpoints(directory, captured.done)
        except BaseException:
            if comm.rank == 0:
                with suppress(OSError):
                    _remove(partial)
            raise
    comm.barrier(stage="checkpoint")


def capture(state: RunState) -> Captured:
    """Return the tensors and numbers of a state, which shares its memory; collective.

    Raises:
        ConfigError: If the optimiser's state is something else than tensors and numbers.
    """
    model, shard, optimizer = state.model, state.shard, state.optimizer
    of_model = sharded_names(model)
    files = {"model.safetensors": (dict(model.state_dict()), of_model)}
    if state.best is not None:
        files[_BEST] = state.best, of_model
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors, numbers = {}, {}
    sharded: dict[str, str | None] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            key = f"{index}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
                parameter = parameters[index]
                if isinstance(parameter, ShardedParameter) and value.dim():
                    sharded[key] = parameter.node_type
            elif value is None or isinstance(value, int | float):
                numbers[key] = value
            else:
                raise ConfigError(
                    f"checkpoint: expected an optimiser whose state is tensors and numbers, got "
                    f"{type(value).__name__} '{name}' of {type(optimizer).__name__}. Use another "
                    "optimiser, or no run_dir."
                )
    late_rates = {}
    for index, (missed, rates) in ({} if state.rows is None else state.rows.missed()).items():
        key, parameter = f"{index}.{_MISSED}", parameters[index]
        assert isinstance(parameter, ShardedParameter)
        tensors[key], sharded[key] = missed, parameter.node_type
        late_rates[index] = max(shard.comm.all_gather(np.array(rates), stage="rates"), key=len)
    files["optimizer.safetensors"] = tensors, sharded
    if state.in_flight is not None:
        files[_VERSIONS] = state.in_flight.tensors, {}
    progress = {
        "epoch": state.epochs,
        "optimizer": numbers,
        "optimizer_kind": type(optimizer).__name__,
        "schedule": {} if state.rate is None else state.rate.state(),
        "history": vars(state.history),
        "part": vars(state.part),
        "rates": {index: rates.tolist() for index, rates in late_rates.items()},
        "seed": state.seed,
        "graph": _graph_size(shard),
        "content": graph_fingerprint(shard),
        "in_flight": {} if state.in_flight is None else state.in_flight.numbers,
    }
    return Captured((state.epochs, state.part.steps), files, progress, shard)


def _write_files(folder: Path, captured: Captured) -> dict[str, str]:
    """Write the files of a checkpoint; return their hashes, by name, on rank 0."""
    hashes: dict[str, str] = {}
    for name, (tensors, sharded) in captured.files.items():
        hashes |= save_tensors(tensors, sharded, captured.shard, folder / name)
    if captured.shard.comm.rank == 0:
        path = folder / _PROGRESS
        path.write_text(json.dumps(captured.progress) + "\n")
        hashes[path.name] = file_hash(path)
    return hashes


def latest_checkpoint(directory: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None if there are no checkpoints.

    A warning names each newer checkpoint that is not whole. Other folders are ignored.

    Raises:
        ConfigError: If there are checkpoints and none is whole.
    """
    newest = None
    for _, _, path in reversed(_checkpoints(directory)):
        damage = _damage(path)
        if damage is None:
            return path
        if any(path.iterdir()):
            newest = newest or damage
            _log.warning("%s; looking for an older checkpoint.", damage)
    if newest is not None:
        raise ConfigError(
            f"{directory}: expected a whole checkpoint, got only damaged ones ({newest}). Restore "
            "the directory, or remove it to start from the first epoch."
        )
    return None


def _damage(path: Path) -> str | None:
    """Return a description of what is missing or changed in a checkpoint, or None."""
    try:
        hashes = dict(json.loads((path / _FILES).read_text()))
        for name in (_PROGRESS, *hashes):
            if file_hash(path / name) != hashes.get(name):
                return f"{path / name}: expected the content that was saved, got other content"
    except OSError as error:
        return f"{error.filename}: expected a file of a checkpoint, got {error.strerror}"
    except (TypeError, ValueError):
        return f"{path / _FILES}: expected a list of files, got other content"
    return None


def _checkpoints(directory: Path) -> list[tuple[int, int, Path]]:
    """Return epochs, steps and path of each folder that is named as a checkpoint, sorted."""
    entries = directory.iterdir() if directory.is_dir() else ()
    names = ((re.fullmatch(_FOLDER, path.name), path) for path in entries)
    return sorted(
        (int(match[1]), int(match[2] or 0), path)
        for match, path in names
        if match and path.is_dir()
    )


def remove_old_checkpoints(directory: Path, last: tuple[int, int]) -> None:
    """Delete all checkpoints but the last two, and what a killed run left.

    Args:
        directory: Directory of the run's checkpoints.
        last: Epochs and steps of the last checkpoint; later ones are kept.
    """
    until = [path for *done, path in _checkpoints(directory) if tuple(done) <= last]
    for folder in (*until[:-_NUM_KEPT], _temporary(directory)):
        _remove(folder)


def _remove(folder: Path) -> None:
    """Delete a folder if it exists. Its list of files goes first: without it, it is not whole."""
    (folder / _FILES).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _temporary(directory: Path) -> Path:
    return partial_path(directory / "epoch")


def load_checkpoint(path: Path, state: RunState) -> None:
    """Load a checkpoint into the state of a run of the same model, graph, optimiser and seed.

    Collective.

    Raises:
        ConfigError: If the checkpoint is damaged, or was written with another model, seed or graph.
    """
    model, shard, optimizer = state.model, state.shard, state.optimizer
    load_weights(model, shard, path / "model.safetensors")
    progress = read_progress(path / _PROGRESS)
    best_path, optimizer_path = path / _BEST, path / "optimizer.safetensors"
    folder = storage_of(model)
    best = read_tensors(shard, best_path, folder) if best_path.exists() else None
    if best is not None:
        check_weights(best, model.state_dict(), best_path)
    tensors = read_tensors(shard, optimizer_path, folder)
    values: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **progress.optimizer}.items():
        index, _, key = name.partition(".")
        values.setdefault(int(index) if index.isdecimal() else -1, {})[key] = value
    missed = {
        index: (some.pop(_MISSED), progress.rates.get(index, []))
        for index, some in values.items()
        if _MISSED in some
    }
    check_kind(progress.optimizer_kind, optimizer, path)
    check_optimizer(values, optimizer, optimizer_path)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": values, "param_groups": groups})
    if progress.seed != state.seed:
        raise ConfigError(
            f"{path}: expected a run with seed {state.seed}, got one with seed {progress.seed}. "
            "Use the same seed."
        )
    if progress.graph != _graph_size(shard):
        raise ConfigError(
            f"{path}: expected a run on a graph of {_graph_size(shard)}, got one on a graph of "
            f"{progress.graph}. Use the graph of that run."
        )
    if graph_fingerprint(shard) != progress.content and progress.content:
        raise ConfigError(
            f"{path}: expected a run on this graph, got one on a graph of the same size with other "
            "ids, columns or degrees. Use the graph of that run."
        )
    if state.rate is not None:
        state.rate.load(progress.schedule)
    if state.rows is not None:
        state.rows.load_missed(missed)
    state.epochs, state.history, state.best = progress.epoch, progress.history, best
    state.part = progress.part
    if progress.in_flight:
        state.in_flight = InFlight(
            progress.in_flight, read_tensors(shard, path / _VERSIONS, folder)
        )


def _graph_size(shard: Shard) -> str:
    manifest = shard.manifest
    return f"{counted(manifest.num_nodes, 'node')} and {counted(manifest.num_edges, 'edge')}"

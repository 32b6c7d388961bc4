"""Checkpoints: model, optimiser and progress as safetensors and JSON, written whole or not at all.

Randomness is counter-based, so a checkpoint needs no generator state: the epoch says it all.
Replicated tensors are written by one rank. Those with a row a master (of a `NodeEmbedding`, and
the optimiser's numbers for it) are written by every rank, with the keys of its nodes, and read by
key: nobody holds all. So a run resumes on any number of workers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import is_sharded
from graphtheta.runtime.atomic import atomic_file, partial_path
from graphtheta.shard.shard import Shard

__all__ = [
    "latest_checkpoint",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "save_weights",
]

_KEY = "node_key"
_KEPT = 2  # the last checkpoint and the one before, should the disk fail under the last


def save_weights(
    model: nn.Module, shard: Shard, path: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model's weights as safetensors: beside, then renamed; collective.

    Args:
        model: Whose.
        shard: Whose masters rows are of.
        path: The file; those of masters go beside it.
        state: The weights, where they are not the model's present ones.
    """
    rows = {name for name, parameter in model.named_parameters() if is_sharded(parameter)}
    _save(model.state_dict() if state is None else state, rows, shard, path)


def load_weights(model: nn.Module, shard: Shard, path: Path) -> None:
    """Load weights into a model.

    Raises:
        ConfigError: If the file is missing or damaged, or is of another model or other nodes.
    """
    try:
        model.load_state_dict(_load(shard, path))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot read weights ({error}).") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: these are weights of another model ({reason}).") from error


def _save(state: Mapping[str, Tensor], rows: set[str], shard: Shard, path: Path) -> None:
    comm = shard.comm
    if comm.rank == 0:
        for old in _row_files(path):  # perhaps of more workers
            old.unlink()
        _write({name: t for name, t in state.items() if name not in rows}, path)
    comm.barrier(stage="save weights")
    if rows:
        keys = torch.from_numpy(shard.node_key_L[: shard.num_masters].copy())
        mine = {_KEY: keys, **{name: state[name] for name in rows}}
        _write(mine, path.with_name(f"{path.stem}.rows-{comm.rank:05d}{path.suffix}"))
    comm.barrier(stage="save rows")


def _write(state: Mapping[str, Tensor], path: Path) -> None:
    with atomic_file(path) as partial:
        save_file({name: t.detach().cpu().contiguous() for name, t in state.items()}, partial)


def _row_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.rows-*{path.suffix}"))


def _load(shard: Shard, path: Path) -> dict[str, Tensor]:
    state = load_file(path)
    mine = shard.node_key_L[: shard.num_masters]
    found = np.zeros(len(mine), np.bool_)
    for file in _row_files(path):
        theirs = load_file(file)
        keys = theirs.pop(_KEY).numpy()
        order = np.argsort(keys)
        place = np.searchsorted(keys[order], mine)
        here = place < len(keys)
        here[here] = keys[order[place[here]]] == mine[here]
        found |= here
        at, source = torch.from_numpy(here), torch.from_numpy(order[place[here]])
        for name, rows in theirs.items():
            whole = state.setdefault(name, rows.new_empty((len(mine), *rows.shape[1:])))
            whole[at] = rows[source]
    if _row_files(path) and not found.all():
        raise ConfigError(
            f"{path}: expected rows of all nodes, got none of {np.count_nonzero(~found):,}: they "
            "are of another graph. Name the input of that run."
        )
    return state


def save_checkpoint(
    folder: Path,
    epoch: int,
    model: nn.Module,
    shard: Shard,
    best: Mapping[str, Tensor] | None,
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Write `folder/epoch-000010` and drop all but the last two; collective.

    Args:
        folder: Where checkpoints of the run go.
        epoch: Epochs finished.
        model: Its parameters and buffers are saved.
        shard: Whose masters rows are of.
        best: Weights of the best epoch so far, or None if there was none.
        optimizer: Its state is saved.
        progress: JSON: histories and the best metrics.
    """
    comm = shard.comm
    target = folder / f"epoch-{epoch:06d}"
    partial = partial_path(target)
    if comm.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    comm.barrier(stage="checkpoint folder")
    save_weights(model, shard, partial / "model.safetensors")
    if best is not None:
        save_weights(model, shard, partial / "best.safetensors", best)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors, numbers, rows = {}, {}, set()
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            key = f"{index}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
                if is_sharded(parameters[index]) and value.dim():
                    rows.add(key)
            else:
                numbers[key] = value
    _save(tensors, rows, shard, partial / "optimizer.safetensors")
    if comm.rank == 0:
        (partial / "progress.json").write_text(
            json.dumps({"epoch": epoch, "optimizer": numbers, **progress}) + "\n"
        )
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in sorted(folder.glob("epoch-*"))[:-_KEPT]:
            shutil.rmtree(old)
    comm.barrier(stage="checkpoint")


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None."""
    return max(folder.glob("epoch-*"), default=None)


def load_checkpoint(
    path: Path, model: nn.Module, shard: Shard, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
    """Load a checkpoint into a model and its optimiser.

    Returns:
        The progress that was saved, and the weights of the best epoch so far.

    Raises:
        ConfigError: If the checkpoint is damaged or of another model.
    """
    load_weights(model, shard, path / "model.safetensors")
    try:
        progress: dict[str, Any] = json.loads((path / "progress.json").read_text())
        tensors = _load(shard, path / "optimizer.safetensors")
        best_path = path / "best.safetensors"
        best = _load(shard, best_path) if best_path.exists() else None
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot read the checkpoint ({error}).") from error
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **progress.pop("optimizer")}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return progress, best

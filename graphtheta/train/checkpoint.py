"""Checkpoints: model, optimiser and progress as safetensors and JSON, written whole or not at all.

Randomness is counter-based, so a checkpoint needs no generator state: the epoch says it all. The
parameters are replicated, so a run resumes on any number of workers.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graphtheta.errors import ConfigError

__all__ = [
    "latest_checkpoint",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "save_weights",
]

_KEPT = 2  # the last checkpoint and the one before, should the disk fail under the last


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name as safetensors: beside, then renamed."""
    partial = path.with_name(f".{path.name}.partial")
    save_file({name: t.detach().cpu().contiguous() for name, t in state.items()}, partial)
    os.replace(partial, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into a model.

    Raises:
        ConfigError: If the file is missing or damaged, or is of another model.
    """
    try:
        state = load_file(path)
        model.load_state_dict(state)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot read weights ({error}).") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: these are weights of another model ({reason}).") from error


def save_checkpoint(
    folder: Path,
    epoch: int,
    model: nn.Module,
    best: Mapping[str, Tensor] | None,
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Write `folder/epoch-000010` and drop all but the last two; for one rank to call.

    Args:
        folder: Where checkpoints of the run go.
        epoch: Epochs finished.
        model: Its parameters and buffers are saved.
        best: Weights of the best epoch so far, or None if there was none.
        optimizer: Its state is saved.
        progress: JSON: histories and the best metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"epoch-{epoch:06d}"
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_weights(model.state_dict(), partial / "model.safetensors")
    if best is not None:
        save_weights(best, partial / "best.safetensors")
    tensors, numbers = {}, {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    save_weights(tensors, partial / "optimizer.safetensors")
    (partial / "progress.json").write_text(
        json.dumps({"epoch": epoch, "optimizer": numbers, **progress}) + "\n"
    )
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for old in sorted(folder.glob("epoch-*"))[:-_KEPT]:
        shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None."""
    return max(folder.glob("epoch-*"), default=None)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
    """Load a checkpoint into a model and its optimiser.

    Returns:
        The progress that was saved, and the weights of the best epoch so far.

    Raises:
        ConfigError: If the checkpoint is damaged or of another model.
    """
    load_weights(model, path / "model.safetensors")
    try:
        progress: dict[str, Any] = json.loads((path / "progress.json").read_text())
        tensors = load_file(path / "optimizer.safetensors")
        best_path = path / "best.safetensors"
        best = load_file(best_path) if best_path.exists() else None
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot read the checkpoint ({error}).") from error
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **progress.pop("optimizer")}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return progress, best

"""Checks of the tensors and numbers that are read from the files of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.train.history import History, PartialEpoch
from graphtheta.wording import counted

__all__ = [
    "Progress",
    "check_kind",
    "check_optimizer",
    "check_weights",
    "read_progress",
    "tensors_hash",
]

_REMEDY = "Use an earlier checkpoint, or start the run again in a new --run-dir."
# What an optimiser keeps for a parameter: its own type of tensor, or a number of steps.
_STATE: dict[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}


class Progress(BaseModel):
    """Content of `progress.json` of a checkpoint.

    Attributes:
        epoch: Number of finished epochs.
        optimizer: Numbers of the optimiser's state, by `<parameter>.<name>`.
        history: History of the run.
        seed: Random seed of the run.
        graph: Size of the graph, as text.
        content: Fingerprint of the graph. Empty in checkpoints of earlier versions.
        schedule: State of the schedule of the learning rate.
        optimizer_kind: Class of the optimiser. Empty in checkpoints of earlier versions.
        part: Part of the next epoch that is trained.
        rates: Learning rates of the last updates, which some learned rows have missed, by number of
            the parameter.
        in_flight: What a parameter service keeps in addition.
    """

    model_config = ConfigDict(strict=True)

    epoch: int
    optimizer: dict[str, float | int | bool | None]
    history: History
    seed: int
    graph: str
    content: str = ""
    schedule: dict[str, Any] = {}
    optimizer_kind: str = ""
    part: PartialEpoch = PartialEpoch()
    rates: dict[int, list[float]] = {}
    in_flight: dict[str, Any] = {}


def read_progress(path: Path) -> Progress:
    """Return the content of `progress.json`.

    Raises:
        ConfigError: If it is missing or damaged.
    """
    try:
        progress = Progress.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _wrong(path, "a readable file", f"{error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _wrong(path, "the progress of a run", f"{where}: {first['msg']}") from None
    if not progress.epoch == len(progress.history.loss) == len(progress.history.epoch_seconds):
        given = counted(len(progress.history.loss), "loss", "losses")
        raise _wrong(path, f"the losses of {counted(progress.epoch, 'epoch')}", given)
    return progress


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Check names, shapes and types of weights, and that they are finite.

    Args:
        found: Weights of the file.
        expected: Weights of the model.
        path: The file, for messages.

    Raises:
        ConfigError: If they are not as in the model; the message names the weight.
    """
    others = sorted(found.keys() ^ expected.keys())
    wrong = [n for n in expected if n in found and found[n].shape != expected[n].shape]
    if others or wrong:
        name = (others or wrong)[0]
        got = tuple(found[name].shape) if name in found else "none"
        raise ConfigError(
            f"{path}: expected weights of this model, got others ({name}: {got}). Build the model "
            "as in that run, for a graph with as many features, classes and edge types."
        )
    for name, tensor in found.items():
        _check_values(tensor, expected[name].dtype, f"{path}: {name}")


def check_kind(saved: str, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Raise a ConfigError if the state of a torch optimiser is loaded into another kind."""
    kinds = {kind.__name__ for kind in type(optimizer).__mro__}
    if hasattr(torch.optim, saved) and saved not in kinds:
        raise _wrong(path, f"the state of {type(optimizer).__name__}", f"that of {saved}")


def check_optimizer(
    state: Mapping[int, Mapping[str, Any]], optimizer: torch.optim.Optimizer, path: Path
) -> None:
    """Check that the state of an optimiser fits its parameters.

    Raises:
        ConfigError: If it does not; the message names the value.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known = _STATE.get(type(optimizer))
    if known is not None and any(group.get("amsgrad") for group in optimizer.param_groups):
        known = known | {"max_exp_avg_sq"}
    for index, values in state.items():
        where = f"{path}: {index}"
        if not 0 <= index < len(parameters) or (known is not None and set(values) - known):
            raise _wrong(where, "the state of this optimiser", f"{', '.join(values)}")
        parameter = parameters[index]
        if known is not None and "step" in known and set(values) != known:
            raise _wrong(where, f"{', '.join(sorted(known))}", f"{', '.join(sorted(values))}")
        for name, value in values.items():
            if not isinstance(value, Tensor):
                continue
            if known is not None and value.shape not in (parameter.shape, torch.Size([])):
                shapes = f"shape {tuple(parameter.shape)}", f"{tuple(value.shape)}"
                raise _wrong(f"{where}.{name}", *shapes)
            dtype = parameter.dtype if known is not None and value.dim() else value.dtype
            _check_values(value, dtype, f"{where}.{name}")


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of the names, types, shapes and values of tensors in memory of the CPU."""
    hasher = xxhash.xxh3_128()
    for name, tensor in sorted(tensors.items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():  # torch cannot view all empty tensors as bytes
            hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return str(hasher.hexdigest())


def _check_values(tensor: Tensor, dtype: torch.dtype, where: str) -> None:
    if tensor.dtype != dtype:
        raise _wrong(where, f"{dtype}", f"{tensor.dtype}")
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise _wrong(where, "finite numbers", "NaN or inf")


def _wrong(where: Path | str, expected: str, got: str) -> ConfigError:
    return ConfigError(f"{where}: expected {expected}, got {got}. {_REMEDY}")

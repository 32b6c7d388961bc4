"""Checks of a trainer's arguments: that a model computes the same on any number of workers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from graphtheta.errors import ConfigError
from graphtheta.runtime.numbers import need_real, need_whole
from graphtheta.tgar import refuse_compiled, refuse_mixed_precision
from graphtheta.tgar.mixed_precision import is_autocast

__all__ = ["Precision", "check_model", "check_options", "check_precision", "refuse_autocast"]

Precision = Literal["full", "bf16"]

_BATCH_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d),
)
_INSTANCE_NORMS = (
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LazyInstanceNorm1d, nn.LazyInstanceNorm2d, nn.LazyInstanceNorm3d),
)
_DROPOUTS = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)
_STATISTICS = (
    "takes statistics from the nodes of one worker",
    "Use graphtheta.nn.BatchNorm, called as norm(view[k], h), or torch.nn.LayerNorm",
)
_RANDOM = (
    "draws random numbers that depend on the worker",
    "Set its dropout to 0, and use graphtheta.nn.Dropout, called as dropout(view[k], h)",
)
_MIXES = (
    "reads all rows of one worker",
    "Use a layer of graphtheta.nn, such as TransformerConv",
)
_EDGES = (
    "reads edges that a view does not have",
    "Use a layer of graphtheta.nn, or write a TGARLayer",
)
_POSITIVE = ("lr", "clip")
_NODE_WISE = ("MessageNorm", "HeteroLayerNorm")  # norms of PyG that look at one node


def check_model(model: object) -> nn.Module:
    """Return a model, if it can be trained with the same losses on any number of workers.

    Raises:
        ConfigError: If it is no module, has no parameters, computes in another dtype than float32
            or float64, was compiled, is not called with a view and features, or has a module, at
            any depth, with batch statistics, attention between rows or random numbers of its own.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"trainer: expected a model, a torch.nn.Module, got {type(model).__name__}. Construct "
            "one, such as gt.nn.GCN(in_channels, hidden_channels, out_channels)."
        )
    for path, module in model.named_modules():
        where = f"at '{path}'" if path else "as the model"
        refuse_compiled(module, "trainer")
        fault = _fault_of(module)
        if fault is not None:
            library = type(module).__module__.partition(".")[0]
            raise ConfigError(
                f"trainer: expected a model that computes the same on any number of workers, got "
                f"{type(module).__name__} of {library} {where}, which {fault[0]}. {fault[1]}."
            )
    _check_parameters(model)
    _check_call(model)
    return model


def check_options(
    strategy: object, *, reals: Mapping[str, object], integers: Mapping[str, object]
) -> None:
    """Raise a ConfigError if an option of a trainer is of another type, or out of its range.

    Args:
        strategy: Strategy, or None.
        reals: Options that are numbers >= 0, or None; the learning rate is greater than 0.
        integers: Options that are integers >= 0, or None.
    """
    if isinstance(strategy, str):
        raise ConfigError(
            f"trainer: expected a strategy such as gt.MiniBatch(1024), got the name '{strategy}'. "
            "Construct one."
        )
    for name, value in reals.items():
        if value is not None:
            need_real(value, f"trainer: {name}", is_positive=name in _POSITIVE)
    for name, value in integers.items():
        if value is not None:
            need_whole(value, f"trainer: {name}", 0)


def check_precision(precision: object, model: nn.Module) -> None:
    """Raise a ConfigError if a model cannot be trained in a precision."""
    if precision not in ("full", "bf16"):
        raise ConfigError(
            f"trainer: precision: expected 'full' or 'bf16', got {precision!r}. Choose one."
        )
    first = next(model.parameters())
    if precision == "bf16" and (first.device.type != "cpu" or first.dtype != torch.float32):
        raise ConfigError(
            "trainer: precision: expected float32 parameters on the CPU with 'bf16', got "
            f"{str(first.dtype).removeprefix('torch.')} on {first.device.type}. Use 'full'."
        )


def refuse_autocast(device: str) -> None:
    """Raise a ConfigError if autocast is on around a trainer, which evaluates as well."""
    if is_autocast(device):
        raise ConfigError(
            f"trainer: expected no autocast around fit, got torch.autocast({device!r}). Use "
            "precision='bf16' of the trainer."
        )


def _check_call(model: nn.Module) -> None:
    """Raise a ConfigError if a model cannot be called as model(view, x)."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return  # not written in Python
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"trainer: expected a model that is called as model(view, x), got "
            f"{type(model).__name__} with forward{signature} ({error}). Write a module whose "
            "forward takes a view and the features."
        ) from None


def _check_parameters(model: nn.Module) -> None:
    dtypes: dict[torch.dtype, str] = {}
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ConfigError(
                f"trainer: expected parameters with a shape, got '{name}' of a lazy module. Give "
                "the numbers of columns when you construct it."
            )
        refuse_mixed_precision(
            f"trainer, parameter '{name}'", parameter.dtype, parameter.device.type
        )
        dtypes.setdefault(parameter.dtype, name)
    if not dtypes:
        raise ConfigError(
            f"trainer: expected a model with parameters, got {type(model).__name__} without any. "
            "Register its layers as attributes or in a torch.nn.ModuleList."
        )
    if len(dtypes) > 1:
        found = " and ".join(f"{dtype} of '{name}'" for dtype, name in dtypes.items())
        raise ConfigError(
            f"trainer: expected parameters of one dtype, got {found}. Use model.float() or "
            "model.double()."
        )


def _fault_of(module: nn.Module) -> tuple[str, str] | None:
    """Return what is wrong with a module, and what to do; None if nothing is."""
    if isinstance(module, _BATCH_NORMS) or (
        isinstance(module, _INSTANCE_NORMS) and module.track_running_stats
    ):
        return _STATISTICS
    if isinstance(module, nn.MultiheadAttention) or (
        isinstance(module, nn.Softmax | nn.LogSoftmax | nn.Softmin) and module.dim == 0
    ):
        return _MIXES
    draws = (
        (isinstance(module, _DROPOUTS) and module.p > 0)
        or (isinstance(module, nn.RReLU) and module.lower < module.upper)
        or (isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1)
        or isinstance(module, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d)
    )
    if draws:
        return _RANDOM
    # By name: PyG and DGL take seconds to import, and may not be installed.
    kinds = [f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__]
    if any(kind.startswith(("torch_geometric.nn.conv.", "dgl.nn.")) for kind in kinds):
        return _EDGES
    is_norm = any(kind.startswith("torch_geometric.nn.norm.") for kind in kinds)
    node_wise = type(module).__name__ in _NODE_WISE or getattr(module, "mode", "") == "node"
    return _STATISTICS if is_norm and not node_wise else None

"""Refusal of torch functions whose results depend on the worker: random numbers and batch norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode, resolve_name

from graphtheta.errors import TraceError

__all__ = ["WorkerIndependent", "name_of", "refuse_worker_dependent"]

_RANDOM = {
    "rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "random_",
    "dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
    "alpha_dropout_", "feature_dropout", "feature_dropout_", "feature_alpha_dropout",
    "feature_alpha_dropout_", "native_dropout", "rrelu", "rrelu_", "gumbel_softmax", "bernoulli",
    "bernoulli_", "binomial", "multinomial", "poisson", "normal", "normal_", "log_normal_",
    "uniform_", "exponential_", "geometric_", "cauchy_",
}  # fmt: skip


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a torch function, such as `relu` or `__add__`."""
    return getattr(function, "__name__", "") or str(resolve_name(function))


def refuse_worker_dependent(name: str, kwargs: Mapping[str, Any]) -> None:
    """Raise TraceError for a call of a torch function whose result depends on the worker.

    Args:
        name: Name of the function.
        kwargs: Keyword arguments of the call.
    """
    if name in _RANDOM:
        raise TraceError(
            f"layer: {name}() draws random numbers that depend on the worker. Use "
            "graphtheta.nn.Dropout for nodes, or keep(p) inside gather."
        )
    if name == "batch_norm" and kwargs.get("training"):
        raise TraceError(
            "layer: torch's batch norm takes its statistics from one worker's nodes. Use "
            "graphtheta.nn.BatchNorm between layers."
        )


class WorkerIndependent(TorchFunctionMode):
    """Context that refuses torch's random numbers and batch norm: they depend on the workers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        refuse_worker_dependent(name_of(func), kwargs)
        return func(*args, **kwargs)

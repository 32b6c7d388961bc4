"""Refusal of functions whose results depend on the worker: random numbers and batch norm."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

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
_BATCH_NORMS = ("batch_norm", "native_batch_norm")  # of torch.nn.functional and of torch


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a torch function, such as `relu` or `__add__`."""
    return getattr(function, "__name__", "") or str(resolve_name(function))


def refuse_worker_dependent(name: str, kwargs: Mapping[str, Any], args: Sequence[Any] = ()) -> None:
    """Raise TraceError for a call of a torch function whose result depends on the worker.

    Args:
        name: Name of the function.
        kwargs: Keyword arguments of the call.
        args: Its other arguments.
    """
    if name in _RANDOM and kwargs.get("training") is not False and kwargs.get("p") != 0:
        raise _draws(f"{name}()")
    if name in _BATCH_NORMS and kwargs.get("training", True in args[5:6]):
        raise TraceError(
            "layer: torch's batch norm takes its statistics from one worker's nodes. Use "
            "graphtheta.nn.BatchNorm between layers."
        )


def _draws(name: str) -> TraceError:
    return TraceError(
        f"layer: {name} draws random numbers that depend on the worker. Use "
        "graphtheta.nn.Dropout for nodes, or keep(p) inside gather."
    )


class _Functions(TorchFunctionMode):
    """Context that refuses functions by the name that the user has written."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        refuse_worker_dependent(name_of(func), kwargs, args)
        return func(*args, **kwargs)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context that refuses operators which torch marks as random, inside of any function."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and _is_random(func.__name__, args):
            raise _draws(f"{func.__name__.partition('.')[0]}()")
        return func(*args, **(kwargs or {}))


def _is_random(name: str, args: tuple[Any, ...]) -> bool:
    """Return whether a call of an operator that may draw random numbers does so."""
    if "attention" in name:
        return len(args) > 3 and isinstance(args[3], float) and args[3] > 0  # the dropout
    return "rrelu" not in name or True in [arg for arg in args if isinstance(arg, bool)]


class WorkerIndependent:
    """Context that refuses random numbers and torch's batch norm, which depend on the worker.

    Those of `random` and `numpy.random` are noticed at the end by the state of their global
    generators; other generators are not.
    """

    def __enter__(self) -> None:
        self._states = _global_states()
        self._contexts = ExitStack()
        self._contexts.enter_context(_Functions())
        self._contexts.enter_context(_Operators())  # type: ignore[no-untyped-call]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._contexts.__exit__(kind, value, traceback)
        if kind is not None:
            return
        for name, state in _global_states().items():
            if state != self._states[name]:
                raise _draws(f"a function of {name}")


def _global_states() -> dict[str, object]:
    """Return the states of the global random generators; that of numpy as text, to compare it."""
    return {"random": random.getstate(), "numpy.random": str(np.random.get_state(legacy=False))}

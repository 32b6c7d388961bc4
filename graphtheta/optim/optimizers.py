"""Optimisers by name, as objects and as factories, and their groups of parameters."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import is_sharded
from graphtheta.wording import counted

__all__ = ["OPTIMIZERS", "ParameterGroups", "make_optimizer"]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
# From a model to groups of parameters, as the optimisers of torch take them.
ParameterGroups = Callable[[nn.Module], Iterable[dict[str, Any]]]

_log = logging.getLogger("graphtheta")
_OWN_STEP = (torch.optim.LBFGS, torch.optim.SparseAdam)
# These update each number by itself, so that rows on several workers get the same updates.
_ELEMENTWISE = tuple(
    getattr(torch.optim, name)
    for name in (
        *("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam"),
        *("RMSprop", "Rprop", "SGD"),
    )
)


def make_optimizer(
    given: str | torch.optim.Optimizer | Callable[..., torch.optim.Optimizer],
    model: nn.Module,
    *,
    lr: float | None,
    weight_decay: float | None,
    decay_biases: bool = True,
    parameter_groups: ParameterGroups | None = None,
    report: bool = True,
) -> torch.optim.Optimizer:
    """Return the optimiser of a model.

    Args:
        given: A key of `OPTIMIZERS`, an optimiser of the model's parameters, or a function that is
            called with the parameters, or groups of them, and returns one.
        model: The model.
        lr: Learning rate of an optimiser by name; if None, 0.01.
        weight_decay: Weight decay of an optimiser by name; if None, 0.
        decay_biases: Whether the weight decay includes parameters of fewer than two dimensions:
            biases, and the scales of norms.
        parameter_groups: Function from the model to groups of parameters with options of their
            own. If None, all parameters are one group.
        report: Whether to log warnings, as rank 0 does.

    Raises:
        ConfigError: If `given` is something else, or does not fit the model or the other options.
    """
    if isinstance(given, str):
        need_name(given, OPTIMIZERS, "optimizer (--optimizer)")
    elif not callable(given) and not isinstance(given, torch.optim.Optimizer):
        raise _expected(f"got {type(given).__name__}")
    _refuse_options(
        given,
        {
            "lr": lr is not None,
            "weight_decay": weight_decay is not None,
            "decay_biases": not decay_biases,
            "parameter_groups": parameter_groups is not None,
        },
    )
    if isinstance(given, torch.optim.Optimizer):
        optimizer = given
    else:
        parameters = _groups(model, decay_biases, parameter_groups)
        if isinstance(given, str):
            options = {
                "lr": 0.01 if lr is None else lr,
                "weight_decay": 0.0 if weight_decay is None else weight_decay,
            }
            optimizer = OPTIMIZERS[given](parameters, **options)
        else:
            optimizer = _called(given, parameters)
    _check(optimizer, model, logging.WARNING if report else logging.DEBUG)
    return optimizer


def _refuse_options(given: object, is_given: dict[str, bool]) -> None:
    """Raise a ConfigError if an option has no effect with the optimiser."""
    if isinstance(given, str):
        without: tuple[str, ...] = ()
    elif isinstance(given, torch.optim.Optimizer):
        without = ("lr", "weight_decay", "decay_biases", "parameter_groups")
    else:
        without = ("lr", "weight_decay")
    for name in without:
        if is_given[name]:
            kind = "an object" if len(without) > 2 else "a function"
            raise ConfigError(
                f"trainer: expected no {name} with an optimiser that is {kind}, got one. Set it "
                "where you construct the optimiser."
            )
    if is_given["decay_biases"] and is_given["parameter_groups"]:
        raise ConfigError(
            "trainer: expected no decay_biases with parameter_groups, got False. Set the "
            "weight_decay of your groups."
        )


def _groups(
    model: nn.Module, decay_biases: bool, parameter_groups: ParameterGroups | None
) -> list[Any]:
    """Return the parameters of a model, or groups of them."""
    if parameter_groups is not None:
        groups = [dict(group) for group in parameter_groups(model)]
        for group in groups:
            if "params" not in group:
                raise ConfigError(
                    "trainer: expected parameter_groups with dicts that have the key 'params', got "
                    f"the keys {', '.join(map(str, group)) or 'none'}. Add the parameters."
                )
        return groups
    parameters = list(model.parameters())
    if decay_biases:
        return parameters
    decayed = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _called(factory: Callable[..., Any], parameters: list[Any]) -> torch.optim.Optimizer:
    try:
        inspect.signature(factory).bind(parameters)
    except TypeError as error:
        raise _expected(f"got {_name(factory)}, which is called otherwise ({error})") from None
    except ValueError:
        pass  # not written in Python
    optimizer = factory(parameters)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise _expected(f"got {_name(factory)}, which returns {type(optimizer).__name__}")
    return optimizer


def _check(optimizer: torch.optim.Optimizer, model: nn.Module, level: int) -> None:
    name = type(optimizer).__name__
    if isinstance(optimizer, _OWN_STEP):
        raise ConfigError(
            f"trainer: expected an optimiser of whole steps with dense gradients, got {name}. Use "
            "another, such as torch.optim.Adam, which updates learned rows when they are read."
        )
    named = {parameter: key for key, parameter in model.named_parameters()}
    held = {p for group in optimizer.param_groups for p in group["params"]}
    if held - named.keys():
        raise ConfigError(
            f"trainer: expected an optimiser of the model's parameters, got {name} with "
            f"{counted(len(held - named.keys()), 'other')}. Construct it from model.parameters(), "
            "or give a function of the parameters."
        )
    left_out = [key for p, key in named.items() if p.requires_grad and p not in held]
    if left_out:
        _log.log(
            level,
            "trainer: %s holds no %s, which keep their values (requires_grad is True).",
            *(name, ", ".join(left_out)),
        )
    if not isinstance(optimizer, _ELEMENTWISE) and any(map(is_sharded, held)):
        if isinstance(optimizer, _OF_WHOLE):
            raise ConfigError(
                f"trainer: expected an optimiser that updates each number by itself for learned "
                f"rows, which are divided among workers, got {name}. Use another, such as "
                "torch.optim.Adam."
            )
        _log.log(
            level,
            "trainer: updates of learned rows by %s are the same on any number of workers only if "
            "it updates each number by itself.",
            name,
        )


# These compute with all rows of a matrix, of which a worker has a share.
_OF_WHOLE = tuple(
    getattr(torch.optim, name) for name in ("Adafactor", "Muon") if hasattr(torch.optim, name)
)


def _expected(got: str) -> ConfigError:
    return ConfigError(
        f"optimizer (--optimizer): expected one of {', '.join(sorted(OPTIMIZERS))}, an optimiser "
        "of the model's parameters, or a function of parameters that returns one, such as lambda "
        f"params: torch.optim.AdamW(params, lr=0.01), {got}."
    )


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)

"""Terms that a parameter service and its groups must have in common."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import graphtheta
from graphtheta.errors import WrongServer
from graphtheta.train.elastic.layout import ModelLayout

__all__ = ["check_terms", "terms_of"]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def terms_of(trainer: Any) -> dict[str, str]:
    """Return what decides what a micro-batch computes, by name, as text; collective.

    Args:
        trainer: The `Trainer` of the service or of a group.
    """
    options = (
        ("model", trainer.model),
        ("strategy", trainer.strategy),
        ("task", _resolved(trainer.options, trainer.task.resolved)),
        ("seed", trainer.seed),
        ("bfloat16", trainer.runner.bf16),
        ("steps per epoch", trainer.batches.num_steps()),
    )
    return {
        "store": trainer.shard.manifest.checksum,
        "version of GraphTheta": graphtheta.__version__,
        "parameters": ModelLayout(trainer.model).describe(),
        **{name: _ADDRESS.sub("", repr(value)) for name, value in options},
    }


def _resolved(options: Any, found: Mapping[str, Any]) -> Any:
    """Return the options of a task with the columns that were found for them.

    A service that was started again has the columns of its `config.toml` as options, and its groups
    still have those of its first start.
    """
    resolved = copy.copy(options)
    for name, column in found.items():
        setattr(resolved, "target_relation" if name == "relation" else name, column)
    return resolved


def check_terms(service: Mapping[str, str], group: Mapping[str, str]) -> None:
    """Compare the terms of a group with those of the service.

    Raises:
        WrongServer: If they differ; the message has the first difference.
    """
    for name in (*service, *(name for name in group if name not in service)):
        expected, got = service.get(name, "none"), group.get(name, "none")
        if expected != got:
            start = next(
                (i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), 0
            )
            start = max(0, start - 20)
            raise WrongServer(
                f"join: {name}: expected '{expected[start : start + 100]}' of the parameter "
                f"service, got '{got[start : start + 100]}'. Use the same store, options and code."
            )

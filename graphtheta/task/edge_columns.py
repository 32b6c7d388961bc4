"""Edge columns of a task: label, split and relation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.shard.shard import Shard
from graphtheta.wording import some

__all__ = ["num_relations", "relation_column", "resolve_name"]


def resolve_name(kind: str, name: str | None, present: Iterable[str], default: str) -> str:
    """Return the name of the column to use; if `name` is None, the default or the only one.

    Args:
        kind: "label" or "split", for error messages.
        name: Name that the user gave, or None.
        present: Names of the graph's columns of this kind.
        default: Name that is used if several columns are present.

    Raises:
        ConfigError: If the graph has no such column, or several and `name` is None.
    """
    names = sorted(present)
    if name is None and (default in names or len(names) == 1):
        return default if default in names else names[0]
    if name is None or name not in names:
        if name is not None and names:
            need_name(name, names, f"{kind} of edges (--{kind})")
        got = some(names, len(names)) or "none"
        values = " of train, val and test" if kind == "split" else ""
        remedy = (
            f"Choose one with --{kind}."
            if names
            else f"Name a column{values} of the edge table when you partition it: graphtheta "
            f"partition --edges EDGES STORE --parts N --edge-{kind} COLUMN"
        )
        raise ConfigError(f"task: expected a {kind} of edges, got {got}. {remedy}")
    return name


def relation_column(shard: Shard, name: str) -> Tensor:
    """Return the relation of each edge.

    Shape:
        Returns (E,) int64.

    Raises:
        ConfigError: If there is no such column, or it does not hold one integer per edge.
    """
    need_name(name, shard.manifest.edge_columns, "edge column of relations (--relation-column)")
    column = shard.edge_columns[name]
    if column.dim() != 1 or column.is_floating_point() or column.dtype == torch.bool:
        raise ConfigError(
            f"task: expected integers from 0 in the relation column '{name}', got "
            f"{column.dtype}{list(column.shape[1:]) or ''}. Number the relations."
        )
    return column.long()


def num_relations(shard: Shard, name: str) -> int:
    """Return the largest relation of the whole graph plus one; collective.

    Raises:
        ConfigError: If the column is missing or wrong, or a relation is negative.
    """
    column = relation_column(shard, name)
    extremes = np.array([-1, 0], np.int64)
    if len(column):
        extremes[:] = int(column.max()), -int(column.min())
    shard.comm.all_reduce(extremes, "max", stage="count relations")
    if extremes[1] > 0:
        raise ConfigError(
            f"task: expected integers from 0 in the relation column '{name}', got {-extremes[1]}. "
            "Number the relations."
        )
    return int(extremes[0]) + 1

"""The edge columns that a task reads, chosen by name or because there is no other."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.shard.shard import Shard

__all__ = ["choose", "edge_label", "edge_split", "num_relations", "relation_column"]


def choose(kind: str, name: str | None, present: Iterable[str], default: str) -> str:
    """Return `name`, or the only one of those that are present, or the default among them.

    Args:
        kind: "label" or "split" of edges, for messages and for the name of the option.
        name: What was asked for.
        present: What the graph has.
        default: What stands out.

    Raises:
        ConfigError: If the graph has none, or not that one, or several and none was named.
    """
    names = sorted(present)
    if name is None and (default in names or len(names) == 1):
        return default if default in names else names[0]
    if name is None or name not in names:
        got = "none" if not names else f"{names}" if name is None else f"'{name}' not in {names}"
        values = " of train, val and test" if kind == "split" else ""
        remedy = (
            f"Choose one with --{kind}."
            if names
            else f"Add a column {kind}:NAME{values} to the edge table, and partition again: "
            "graphtheta partition --edges EDGES STORE --parts N"
        )
        raise ConfigError(f"task: expected a {kind} of edges, got {got}. {remedy}")
    return name


def edge_label(shard: Shard, name: str) -> tuple[Tensor, Tensor]:
    """Return the values of an edge label, in CSC order, and where it is known.

    Shape:
        values: (E,) or (E, K). known: (E,) bool.
    """
    values = shard.edge_columns[f"label:{name}"]
    everywhere = torch.ones(len(values), dtype=torch.bool, device=values.device)
    return values, shard.edge_columns.get(f"known:{name}", everywhere)


def edge_split(shard: Shard, name: str) -> Tensor:
    """Return which split each edge is in: (E,) int8, 0 none, 1 train, 2 validation, 3 test."""
    return shard.edge_columns[f"split:{name}"]


def relation_column(shard: Shard, name: str) -> Tensor:
    """Return the relation of each edge.

    Shape:
        Returns (E,) int64.

    Raises:
        ConfigError: If there is no such column, or it is not of integers, one an edge.
    """
    if name not in shard.edge_columns:
        raise ConfigError(
            f"task: expected an edge column '{name}' of relations, got "
            f"{sorted(shard.edge_columns)}. Name one of these by --relation-column."
        )
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
        ConfigError: As of `relation_column`, or a relation is negative.
    """
    column = relation_column(shard, name)
    ends = np.array([-1, 0], np.int64)
    if len(column):
        ends[:] = int(column.max()), -int(column.min())
    shard.comm.all_reduce(ends, "max", stage="count relations")
    if ends[1] > 0:
        raise ConfigError(
            f"task: expected integers from 0 in the relation column '{name}', got {-ends[1]}. "
            "Number the relations."
        )
    return int(ends[0]) + 1

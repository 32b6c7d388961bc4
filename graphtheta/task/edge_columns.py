"""Edge columns of numbers: the relations that a decoder reads, and weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.shard.shard import Shard

__all__ = ["edge_column", "num_relations", "relation_column"]


def edge_column(shard: Shard, name: str, relation: str) -> Tensor:
    """Return a column of the edges of a relation, or a label of that name; 0 for edges of others.

    A label is NaN where it is unknown.

    Shape:
        Returns (E,) or (E, A).

    Raises:
        ConfigError: If the relation has no such column.
    """
    columns = shard.edge_columns_of(relation)
    if name not in columns and (label := f"label:{name}") in columns:
        column = columns[label]
        if (known := columns.get(f"known:{name}")) is not None and column.is_floating_point():
            column = column.masked_fill(~known, torch.nan)
    else:
        need_name(name, columns, "edge column (--loss-weight)")
        column = columns[name]
    if len(shard.relations) == 1:
        return column
    values = column.new_zeros((shard.num_edges, *column.shape[1:]))
    values[shard.to_device(shard.edges_of(relation))] = column
    return values


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

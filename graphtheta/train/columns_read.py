"""Report of the edge columns that a model reads, and of those that it ignores."""

from __future__ import annotations

import logging
from collections.abc import Collection

from torch import nn

from graphtheta.shard.shard import Shard
from graphtheta.tgar import TGARLayer

__all__ = ["ColumnReport"]

_log = logging.getLogger("graphtheta")


class ColumnReport:
    """Report of one line, once the layers have run, of edge columns that are ignored or weights.

    Args:
        model: Model whose layers are asked.
        shard: Graph that it is run on.
        options: Task and strategy, which may read a column of relations, or of weights of targets
            or of edges to sample.
    """

    def __init__(self, model: nn.Module, shard: Shard, options: Collection[object]) -> None:
        self._model, self._shard, self._is_done = model, shard, False
        names = ("relation", "loss_weight", "weight")
        self._others = {getattr(one, name, None) for one in options for name in names}

    def __call__(self) -> None:
        """Report, if it is known and was not reported before."""
        if self._is_done:
            return
        read = [m.edge_columns_read for m in self._model.modules() if isinstance(m, TGARLayer)]
        known = [columns for columns in read if columns is not None]
        if read and not known:
            return
        self._is_done = True
        columns = frozenset[str]().union(*known)
        if len(self._shard.relations) > 1:
            columns |= {"type"}  # the relation, which is no column of the user's
        ignored = [
            name
            for name in sorted(self._shard.manifest.edge_columns)
            if name not in columns and name not in self._others and ":" not in name
        ]
        says = []
        if "weight" in columns:
            says.append("multiplies messages by 'weight' (not with weighted=False, --no-weighted)")
        if ignored:
            says.append(f"does not read {', '.join(map(repr, ignored))}")
        if says:
            _log.warning("Edge columns: the model %s.", ", and ".join(says))

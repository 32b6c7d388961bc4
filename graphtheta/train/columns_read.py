"""Report of the edge columns that a model reads, and of those that it ignores."""

from __future__ import annotations

import logging
from collections.abc import Collection

from torch import nn

from graphtheta.shard.shard import Shard
from graphtheta.tgar import TGARLayer

__all__ = ["report_columns"]

_log = logging.getLogger("graphtheta")


def report_columns(model: nn.Module, shard: Shard, others: Collection[str | None]) -> bool:
    """Report in one line if edge columns are ignored, or weights read; False if not known yet.

    Args:
        model: Model whose layers have run, if they have had a batch.
        shard: Graph that it was run on.
        others: Names of edge columns that the decoder or the sampling reads.
    """
    read = [m.edge_columns_read for m in model.modules() if isinstance(m, TGARLayer)]
    known = [columns for columns in read if columns is not None]
    if read and not known:
        return False
    columns = frozenset[str]().union(*known)
    ignored = [
        name
        for name in sorted(shard.manifest.edge_columns)
        if name not in columns and name not in others and ":" not in name
    ]
    says = []
    if "weight" in columns:
        says.append("multiplies messages by 'weight' (not with weighted=False, --no-weighted)")
    if ignored:
        says.append(f"does not read {', '.join(map(repr, ignored))}")
    if says:
        _log.warning("Edge columns: the model %s.", ", and ".join(says))
    return True

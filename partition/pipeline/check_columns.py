"""First pass over the columns of a graph, so that a wrong value is refused before any work."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.schema import refuse, validate_edges, validate_nodes
from graphtheta.data.source import GraphSource
from graphtheta.partition.core.resources import Resources

__all__ = ["check_columns"]

_log = logging.getLogger(__name__)

_KEYS = ("id", "src", "dst")
_NONE = np.iinfo(np.int64).max


def check_columns(source: GraphSource, resources: Resources) -> dict[str, Any] | None:
    """Validate the columns of nodes and edges, except ids; collective.

    No later phase validates these columns again. Ids are validated by the phases that read them. A
    keyed source has been validated.

    Raises:
        GraphFormatError: If a value is invalid, or a label has only one class. For a graph in
            memory, the latter is only a warning.
    """
    tables = (
        ("nodes", source.node_table, validate_nodes),
        ("edges", source.edge_table, validate_edges),
    )
    for unit, table, validate in tables:
        if table is None or not table.num_rows:
            continue
        columns = [name for name in table.schema.names if name not in _KEYS]
        labels = [name for name in columns if _has_classes(table.schema.field(name))]
        columns = labels if source.keyed else columns
        if not columns:
            continue
        first, last = resources.share(0, table.num_rows)
        found = np.full((len(labels), 2), _NONE, np.int64)  # smallest class, minus the largest
        row = first
        with resources.progress.phase(f"check {unit}", last - first, unit) as advance:
            for chunk in resources.prefetch(table.chunks(first, last, columns)):
                if not source.keyed:
                    validate(chunk, table.name, row)
                for position, label in enumerate(labels):
                    _widen(found[position], chunk[label])
                row += chunk.num_rows
                advance(chunk.num_rows)
        resources.comm.all_reduce(found, "min", stage="check labels")
        for label, (low, minus_high) in zip(labels, found, strict=True):
            if low != _NONE and low == -minus_high:
                found_one = refuse(
                    f"{table.name}: {label}",
                    "at least two classes",
                    f"only class {low}",
                    "Choose another label, or leave it out.",
                )
                if not source.keyed:
                    raise found_one
                if resources.comm.rank == 0:  # others may use the graph for other labels
                    _log.warning("%s", found_one)
    return None


def _has_classes(field: pa.Field) -> bool:
    is_class = pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
    return bool(field.name.startswith("label:") and is_class)


def _widen(bounds: Any, column: pa.ChunkedArray) -> None:
    found = pc.min_max(column)
    if found["min"].is_valid:
        low, high = int(found["min"].as_py()), int(found["max"].as_py())
        bounds[:] = min(bounds[0], low), min(bounds[1], -high)

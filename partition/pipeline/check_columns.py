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
    """Validate the columns of nodes and edges, except ids, which later phases read; collective.

    A graph in memory was validated when it was made.

    Raises:
        GraphFormatError: If a value is invalid, or a label has only one class. For a graph in
            memory, the latter is only a warning.
    """
    tables = (
        ("nodes", source.num_nodes or 0, source.node_schema, source.node_chunks, validate_nodes),
        ("edges", source.num_edges, source.edge_schema, source.edge_chunks, validate_edges),
    )
    for name, num_rows, schema, chunks, validate in tables:
        columns = [column for column in schema.names if column not in _KEYS]
        labels = [column for column in columns if _has_classes(schema.field(column))]
        if not num_rows or not (labels if source.keyed else columns):
            continue
        first, last = resources.share(0, num_rows)
        found = np.full((len(labels), 2), _NONE, np.int64)  # smallest class, minus the largest
        row = first
        with resources.progress.phase(f"check {name}", last - first, name) as advance:
            for chunk in resources.prefetch(chunks(first, last)):
                if not source.keyed:
                    validate(chunk, name, row)
                for position, label in enumerate(labels):
                    _widen(found[position], chunk[label])
                row += chunk.num_rows
                advance(chunk.num_rows)
        resources.comm.all_reduce(found, "min", stage="check labels")
        for label, (low, minus_high) in zip(labels, found, strict=True):
            if low != _NONE and low == -minus_high:
                found_one = refuse(
                    f"{name}: {label}",
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

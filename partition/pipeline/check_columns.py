"""First pass over the columns of a graph, so that a wrong value is refused before any work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.schema import classes_of, refuse, validate_edges, validate_nodes
from graphtheta.data.source import GraphSource
from graphtheta.data.types import EdgeTable, SourceTable
from graphtheta.errors import ConfigError
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.pipeline.masters import NODE_KEYS
from graphtheta.partition.pipeline.shuffle_edges import EDGE_KEYS
from graphtheta.wording import some

__all__ = ["check_columns", "check_tables"]

_log = logging.getLogger(__name__)

_KEYS = ("id", "src", "dst")
_NONE = np.iinfo(np.int64).max


def check_tables(source: GraphSource, *, undirected: bool) -> None:
    """Check the names of columns, and that edges can be reversed if that is requested.

    Raises:
        ConfigError: If edges of several relations, or between nodes of two types, are to be
            reversed.
        GraphFormatError: If a column has a name that the store uses.
    """
    for edge_table in source.edge_tables:
        _refuse_names(edge_table.table, EDGE_KEYS)
    for node_table in source.node_tables:
        _refuse_names(node_table.table, NODE_KEYS)
    if undirected:
        _refuse_relations(source.edge_tables)


def check_columns(source: GraphSource, resources: Resources) -> dict[str, Any] | None:
    """Validate the columns of nodes and edges, except ids; collective.

    Warn of a column `type` in a graph of several relations, which replace it in training.

    No later phase validates these columns again. Ids are validated by the phases that read them. A
    keyed source has been validated.

    Raises:
        GraphFormatError: If a value is invalid, or a label has only one class or only nulls. For a
            graph in memory, the latter is only a warning.
    """
    typed = [table.relation.text for table in source.edge_tables if "type" in table.schema.names]
    if typed and len(source.edge_tables) > 1 and resources.comm.rank == 0:
        _log.warning(
            "partition: the column 'type' of %s is kept, but not read in training: the type of an "
            "edge is its relation.",
            some(typed, len(typed)),
        )
    tables = (
        *(("nodes", of_type.table, validate_nodes) for of_type in source.node_tables),
        *(("edges", of_type.table, validate_edges) for of_type in source.edge_tables),
    )
    for unit, table, validate in tables:
        if not table.num_rows:
            continue
        columns = [name for name in table.schema.names if name not in _KEYS]
        labels = [name for name in columns if name.startswith("label:")]
        columns = labels if source.keyed else columns
        if not columns:
            continue
        first, last = resources.share(0, table.num_rows)
        # Smallest class, minus the largest, and whether all labels are missing.
        found = np.full((len(labels), 3), _NONE, np.int64)
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
        for label, (low, minus_high, missing) in zip(labels, found, strict=True):
            # If there are names of several classes, the others occur in the recipe's first table.
            named = classes_of(table.schema.field(label))
            if missing or (low != _NONE and low == -minus_high and len(named) < 2):
                found_one = refuse(
                    f"{table.name}: {label}",
                    "labels" if missing else "at least two classes",
                    "only nulls" if missing else f"only class {low}",
                    "Choose another label, or leave it out.",
                )
                if not source.keyed:
                    raise found_one
                if resources.comm.rank == 0:  # others may use the graph for other labels
                    _log.warning("%s", found_one)
    return None


def _widen(bounds: Any, column: pa.ChunkedArray) -> None:
    bounds[2] = min(bounds[2], int(column.null_count == len(column)))
    if not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        return
    found = pc.min_max(column)
    if found["min"].is_valid:
        low, high = int(found["min"].as_py()), int(found["max"].as_py())
        bounds[:2] = min(bounds[0], low), min(bounds[1], -high)


def _refuse_relations(tables: Sequence[EdgeTable]) -> None:
    """Refuse reverses of edges in a graph with node types or several relations."""
    relation = tables[0].relation
    if len(tables) > 1 or relation.source != relation.destination:
        names = some((table.relation.text for table in tables), len(tables))
        raise ConfigError(
            f"partition: expected one relation between nodes of one type to reverse, got {names}. "
            "Add reverse relations instead (--add-reverse)."
        )


def _refuse_names(table: SourceTable, reserved: tuple[str, ...]) -> None:
    for name in sorted(set(table.schema.names) & set(reserved)):
        raise refuse(
            table.name, f"no column {name!r}, which the store adds", "one", "Rename the column."
        )

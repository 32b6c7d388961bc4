"""Prediction of pairs of nodes: the label of an edge between them, or whether there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.schema import need_column
from graphtheta.datasets.files import TableFiles
from graphtheta.errors import GraphFormatError
from graphtheta.exchange.directory import location_code
from graphtheta.inference.nodes import cast_ids
from graphtheta.inference.whole import infer
from graphtheta.nn import EdgeModel
from graphtheta.shard.shard import Shard
from graphtheta.task.edge_targets import fetch_endpoints
from graphtheta.wording import some

__all__ = ["Pairs", "read_pairs", "score_pairs"]

_ROUND = 1 << 15  # pairs per worker at a time


@dataclass(frozen=True)
class Pairs:
    """This worker's share of a table of pairs.

    Attributes:
        columns: Columns `src` and `dst` (original ids) and the relation column, if any.
        owner_locations: `location_code` of the two nodes.
        relation: Relation of each pair, or None.

    Shape:
        owner_locations: (R, 2) int64. relation: (R,) int64.
    """

    columns: dict[str, pa.ChunkedArray]
    owner_locations: NDArray[np.int64]
    relation: NDArray[np.int64] | None


def read_pairs(
    shard: Shard,
    uri: str,
    relation: str | None,
    num_relations: int,
    target_relation: str | None = None,
) -> Pairs:
    """Read a table of pairs, and locate the masters of their nodes; collective.

    Every worker reads the whole table and returns an equal share of its rows.

    Args:
        shard: Shard with the original ids.
        uri: Table with columns `src` and `dst`.
        relation: Name of a further column of integers, if any.
        num_relations: Number of relations of the model.
        target_relation: Relation of the pairs in a graph of several node types, such as
            `user-rates-item`, whose sources and destinations `src` and `dst` are.

    Raises:
        ConfigError: If the table, a column or the target relation does not exist.
        GraphFormatError: If an id is not in the graph, or a relation is out of range.

    Communication:
        All-reduce of 8 bytes per distinct id in the table.
    """
    names = ["src", "dst", *([] if relation is None else [relation])]
    files = TableFiles(uri, names)
    for name in names:
        need_column(name, files.names, uri)
    comm = shard.comm
    node_types: tuple[str | None, str | None] = (None, None)
    if len(shard.node_types) > 1:
        of_pairs = shard.relations[shard.manifest.position_of_relation(target_relation)]
        node_types = (of_pairs.source, of_pairs.destination)
    ends = dict(zip(("src", "dst"), node_types, strict=True))
    types: dict[str, pa.DataType | None] = dict.fromkeys(names)
    types |= {name: shard.original_ids_of(node_type).type for name, node_type in ends.items()}
    table = pa.concat_tables(files.stream(0, files.num_rows, types)).combine_chunks()
    locations = [
        _locate(shard, table[name], node_type, f"{uri}: {name}") for name, node_type in ends.items()
    ]
    first, last = (table.num_rows * r // comm.size for r in (comm.rank, comm.rank + 1))
    columns = {name: table[name].slice(first, last - first) for name in names}
    return Pairs(
        columns,
        np.stack(locations, axis=1)[first:last],
        None if relation is None else _relations(table[relation], uri, num_relations)[first:last],
    )


def _locate(
    shard: Shard, column: pa.ChunkedArray, node_type: str | None, where: str
) -> NDArray[np.int64]:
    """Return the `location_code` of nodes of a type, given by original ids; collective."""
    known = shard.original_ids_of(node_type)
    given = cast_ids(column, known.type, where)
    ids = pc.unique(given)
    row = pc.index_in(ids, value_set=known.combine_chunks()).fill_null(-1).to_numpy()
    masters = np.append(shard.masters_of(node_type), -1)
    location = np.where(row < 0, -1, location_code(shard.comm.rank, masters[row]))
    shard.comm.all_reduce(location, "max", stage="chosen pairs")
    if (location < 0).any():
        missing = ids.filter(pa.array(location < 0)).to_pylist()
        raise GraphFormatError(
            f"{where}: expected ids of nodes in the graph, got {len(missing):,} unknown: "
            f"{some(missing, 3)}. Correct them."
        )
    return np.asarray(location[pc.index_in(given, value_set=ids).to_numpy()])


def _relations(column: pa.ChunkedArray, uri: str, bound: int) -> NDArray[np.int64]:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise GraphFormatError(
            f"{uri}: expected integers as relations, got {column.type}"
            f"{' with nulls' if column.null_count else ''}. Use integers from 0."
        )
    relation: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    if len(relation) and not 0 <= relation.min() <= relation.max() < bound:
        raise GraphFormatError(
            f"{uri}: expected relations from 0 to {bound - 1}, as in training, got "
            f"{relation.min()} to {relation.max()}. Correct them."
        )
    return relation


def score_pairs(model: EdgeModel, messages: Shard, pairs: Pairs) -> Tensor:
    """Return the scores of this worker's pairs, without dropout; collective.

    Args:
        model: Model with a decoder.
        messages: Shard whose edges carry messages.
        pairs: Pairs to score; a worker may have none.

    Shape:
        Returns (R, outputs).
    """
    outputs = infer(model, messages)
    scores = outputs.new_empty((len(pairs.owner_locations), model.decoder.outputs))
    for part, src, dst in fetch_endpoints(pairs.owner_locations, outputs, messages, _ROUND):
        of = None if pairs.relation is None else messages.to_device(pairs.relation[part])
        with torch.no_grad():
            scores[part] = model.decoder(src, dst, of)
    return scores

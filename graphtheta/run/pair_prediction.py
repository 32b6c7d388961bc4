"""Prediction of chosen pairs of nodes: the label of an edge between them, or if there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.schema import need_column, some
from graphtheta.datasets.files import TableFiles
from graphtheta.errors import GraphFormatError
from graphtheta.exchange.directory import location_code
from graphtheta.inference.nodes import cast_ids
from graphtheta.inference.whole import infer
from graphtheta.nn import EdgeModel
from graphtheta.shard.shard import Shard
from graphtheta.task.edge_targets import fetch_endpoints

__all__ = ["Pairs", "read_pairs", "score_pairs"]

_ROUND = 1 << 15  # pairs at a time, of each worker


@dataclass(frozen=True)
class Pairs:
    """Some pairs of a table, as many as this worker scores.

    Attributes:
        columns: `src` and `dst`, original ids, and the relation under its name, if there is one.
        homes: (R, 2) `location_code` of the nodes.
        relation: (R,) int64, or None.
    """

    columns: dict[str, pa.ChunkedArray]
    owner_locations: NDArray[np.int64]
    relation: NDArray[np.int64] | None


def read_pairs(shard: Shard, uri: str, relation: str | None, num_relations: int) -> Pairs:
    """Read a table of pairs, and find where their nodes are; collective.

    Every worker reads the table, and takes an equal share of its rows.

    Args:
        shard: Original ids.
        uri: Table with columns `src` and `dst`.
        relation: A further column of it, of integers.
        num_relations: Above every one of these.

    Raises:
        ConfigError: If there is no such table or column.
        GraphFormatError: If an id is not in the graph, or a relation out of range.

    Communication:
        8 bytes a distinct id of the table, to all workers.
    """
    names = ["src", "dst", *([] if relation is None else [relation])]
    files = TableFiles(uri, names)
    for name in names:
        need_column(name, files.names, uri)
    table = pa.concat_tables(files.stream(0, files.num_rows, names)).combine_chunks()
    known, comm = shard.original_ids, shard.comm
    ends = [cast_ids(table[name], known.type, f"{uri}: {name}") for name in ("src", "dst")]
    ids = pc.unique(pa.concat_arrays(ends))
    place = pc.index_in(ids, value_set=known.combine_chunks()).fill_null(-1).to_numpy()
    home = np.where(place < 0, -1, location_code(comm.rank, place))
    comm.all_reduce(home, "max", stage="chosen pairs")
    if (home < 0).any():
        missing = ids.filter(pa.array(home < 0)).to_pylist()
        raise GraphFormatError(
            f"{uri}: expected ids of the graph's nodes, got {len(missing):,} that are none: "
            f"{some(missing, 3)}. Correct them."
        )
    first, last = (table.num_rows * r // comm.size for r in (comm.rank, comm.rank + 1))
    columns = {name: table[name].slice(first, last - first) for name in names}
    at = [pc.index_in(end.slice(first, last - first), value_set=ids).to_numpy() for end in ends]
    return Pairs(
        columns,
        home[np.stack(at, axis=1)],
        None if relation is None else _relations(table[relation], uri, num_relations)[first:last],
    )


def _relations(column: pa.ChunkedArray, uri: str, bound: int) -> NDArray[np.int64]:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise GraphFormatError(
            f"{uri}: expected integers as relations, got {column.type}"
            f"{' with nulls' if column.null_count else ''}. Number the relations."
        )
    relation: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    if len(relation) and not 0 <= relation.min() <= relation.max() < bound:
        raise GraphFormatError(
            f"{uri}: expected relations from 0 to {bound - 1}, as in training, got "
            f"{relation.min()} to {relation.max()}. Correct them."
        )
    return relation


def score_pairs(model: EdgeModel, messages: Shard, pairs: Pairs) -> Tensor:
    """Return the scores of this worker's pairs, dropout off; collective.

    Args:
        model: What scores them.
        messages: The shard whose edges carry messages.
        pairs: Which ones; some workers may have none.

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

"""Prediction of chosen nodes, by their exact neighbourhoods."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphtheta.data.schema import refuse, some, whole
from graphtheta.datasets.files import TableFiles
from graphtheta.errors import GraphFormatError
from graphtheta.shard.shard import Shard
from graphtheta.strategy.ranks import dense_ranks
from graphtheta.tgar import Neighbourhoods, View, count_layers

__all__ = ["chosen_rows", "ids_like", "infer_chosen"]

_ID_KINDS = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_null),
)
_BATCH = 1024  # nodes at a time, over all workers


def chosen_rows(shard: Shard, uri: str) -> NDArray[np.int64]:
    """Return which of this worker's masters a table of original ids names; collective.

    Args:
        shard: Original ids.
        uri: Table with a column `id`, or of one column.

    Shape:
        Returns (T,) int64 local ids, ascending; an id that stands twice counts once.

    Raises:
        ConfigError: If there is no such table.
        GraphFormatError: If it has no such column, or an id is not in the graph.
    """
    files = TableFiles(uri, ["id"])
    if "id" not in files.names and len(files.names) > 1:
        raise GraphFormatError(
            f"{uri}: expected a column 'id', got {files.names}. Name the column of original ids id."
        )
    column = "id" if "id" in files.names else files.names[0]
    table = pa.concat_tables(files.stream(0, files.num_rows, [column]))
    known = shard.original_ids
    ids = pc.unique(ids_like(table[column], known.type, uri))
    here = pc.is_in(ids, value_set=known.combine_chunks()).to_numpy(zero_copy_only=False)
    held = here.astype(np.int8)
    shard.comm.all_reduce(held, "max", stage="chosen nodes")
    if not held.all():
        missing = ids.filter(pa.array(held == 0)).to_pylist()
        raise GraphFormatError(
            f"{uri}: expected ids of the graph's nodes, got {len(missing):,} that are none: "
            f"{some(missing, 3)}. Correct them."
        )
    return np.flatnonzero(pc.is_in(known, value_set=ids).to_numpy().astype(np.bool_))


def ids_like(column: pa.ChunkedArray, kind: pa.DataType, uri: str) -> pa.Array:
    """Return a column of ids with the type of the graph's.

    Raises:
        GraphFormatError: If it holds neither numbers nor text, or something that is no such id.
    """
    ids, expected = whole(column), f"ids of type {kind}, as the graph's"
    if not any(is_kind(ids.type) for is_kind in _ID_KINDS):
        raise refuse(uri, expected, ids.type, "Convert the ids.")
    try:
        return ids.cast(kind)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise refuse(uri, expected, f"{ids.type}: {reason}", "Correct the ids.") from None


def infer_chosen(
    model: nn.Module, shard: Shard, rows: NDArray[np.int64], *, embeddings: bool = False
) -> Tensor:
    """Return the model's outputs for some of this worker's masters, dropout off; collective.

    Equal to the rows of `infer`, at the cost of what these nodes reach in as many hops as the model
    has layers, a batch of them at a time.

    Args:
        model: As for `infer`.
        shard: Storage.
        rows: (T,) int64 local ids of masters; some workers may have none.
        embeddings: Whether to return what the last layer reads.

    Shape:
        Returns (T, outputs), or (T, hidden) with `embeddings`.
    """
    comm = shard.comm
    ranks, total = dense_ranks(shard.node_key_L[rows], shard.manifest.num_nodes, comm)
    neighbourhoods, layers = Neighbourhoods(shard), count_layers(model)
    dtype = next(model.parameters()).dtype
    was_training = model.training
    model.eval()
    found: list[Tensor] = []
    order = np.argsort(ranks)
    cuts = np.searchsorted(ranks[order], np.arange(_BATCH, max(total, 1), _BATCH))
    try:
        with torch.no_grad():
            for batch in np.split(order, cuts):
                view = View(shard, blocks=neighbourhoods.blocks(rows[batch], [None] * layers))
                run = model.embed if embeddings else model
                out: Tensor = run(view, view.inputs(dtype))  # type: ignore[operator]
                found.append(out[: len(batch)])
    finally:
        model.train(was_training)
    outputs = torch.cat(found)
    result = torch.empty_like(outputs)
    result[torch.from_numpy(order).to(outputs.device)] = outputs
    return result

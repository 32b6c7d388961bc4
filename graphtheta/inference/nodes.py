"""Model outputs for some nodes, from their exact neighbourhoods."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphtheta.data.schema import refuse, whole
from graphtheta.datasets.files import TableFiles
from graphtheta.errors import GraphFormatError
from graphtheta.inference.run_model import run_model
from graphtheta.shard.shard import Shard
from graphtheta.strategy.dense_ids import dense_ids
from graphtheta.tgar import Neighbourhoods, View, count_layers
from graphtheta.wording import counted, some

__all__ = ["cast_ids", "infer_nodes", "masters_in_table"]

_ID_KINDS = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_null),
)
_BATCH_SIZE = 1024  # nodes that are computed at a time, over all workers


def masters_in_table(shard: Shard, uri: str, node_type: str | None = None) -> NDArray[np.int64]:
    """Return the masters of this worker whose original ids are in a table; collective.

    Args:
        shard: Graph of the nodes.
        uri: Table with a column `id`, or with one column only.
        node_type: Type of the nodes. If None, the only type of the graph.

    Shape:
        Returns (T,) int64 local ids, ascending, without repeats.

    Raises:
        ConfigError: If there is no such table.
        GraphFormatError: If the table has no column of ids, or an id is not in the graph.
    """
    files = TableFiles(uri, ["id"])
    if "id" not in files.names and len(files.names) > 1:
        raise GraphFormatError(
            f"{uri}: expected a column 'id', got {files.names}. Rename the column of original ids "
            "to id."
        )
    column = "id" if "id" in files.names else files.names[0]
    known = shard.original_ids_of(node_type)
    table = pa.concat_tables(files.stream(0, files.num_rows, {column: known.type}))
    ids = pc.unique(cast_ids(table[column], known.type, uri))
    here = pc.is_in(ids, value_set=known.combine_chunks()).to_numpy(zero_copy_only=False)
    found = here.astype(np.int8)
    shard.comm.all_reduce(found, "max", stage="find nodes")
    if not found.all():
        missing = ids.filter(pa.array(found == 0)).to_pylist()
        raise GraphFormatError(
            f"{uri}: expected ids of the graph's nodes, got {counted(len(missing), 'unknown id')}: "
            f"{some(missing, 3)}. Correct them."
        )
    chosen = pc.is_in(known, value_set=ids).to_numpy().astype(np.bool_)
    rows: NDArray[np.int64] = shard.masters_of(node_type)[chosen]
    return rows


def cast_ids(column: pa.ChunkedArray, kind: pa.DataType, uri: str) -> pa.Array:
    """Return a column of ids, cast to the type of the graph's ids.

    Args:
        column: Ids.
        kind: Type of the graph's original ids.
        uri: Name of the table, for error messages.

    Raises:
        GraphFormatError: If the column holds neither numbers nor strings, or a value cannot be
            cast.
    """
    ids, expected = whole(column), f"ids of type {kind}, as the graph's"
    if not any(is_kind(ids.type) for is_kind in _ID_KINDS):
        raise refuse(uri, expected, ids.type, "Convert the ids.")
    try:
        return ids.cast(kind)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise refuse(uri, expected, f"{ids.type}: {reason}", "Correct the ids.") from None


def infer_nodes(
    model: nn.Module, shard: Shard, rows: NDArray[np.int64], *, embeddings: bool = False
) -> Tensor:
    """Return the model's outputs for some of this worker's masters, dropout off; collective.

    The outputs equal the rows of `infer`, but only what these nodes reach in as many hops as the
    model has layers is computed, for a batch of them at a time.

    Args:
        model: Called as model(view, x); has a method embed(view, x) if embeddings are requested.
        shard: Graph to compute on.
        rows: (T,) int64 local ids of masters; some workers may have none.
        embeddings: Whether to return the inputs of the last layer instead of the outputs.

    Shape:
        Returns (T, outputs), or (T, hidden) with `embeddings`.
    """
    comm = shard.comm
    ids, total = dense_ids(shard.node_key_L[rows], shard.manifest.num_nodes, comm)
    neighbourhoods, layers = Neighbourhoods(shard), count_layers(model)
    was_training = model.training
    model.eval()
    found: list[Tensor] = []
    order = np.argsort(ids)
    cuts = np.searchsorted(ids[order], np.arange(_BATCH_SIZE, max(total, 1), _BATCH_SIZE))
    try:
        with torch.no_grad():
            for batch in np.split(order, cuts):
                view = View(shard, blocks=neighbourhoods.blocks(rows[batch], [None] * layers))
                out = run_model(model, view, method="embed" if embeddings else "__call__")
                found.append(out[: len(batch)])
    finally:
        model.train(was_training)
    outputs = torch.cat(found)
    result = torch.empty_like(outputs)
    result[torch.from_numpy(order).to(outputs.device)] = outputs
    return result

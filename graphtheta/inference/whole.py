"""Model outputs for all nodes of the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.inference.run_model import run_model
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View

__all__ = ["gather_rows", "infer", "infer_in_order"]


def infer(
    model: nn.Module, shard: Shard, *, embeddings: bool = False, node_type: str | None = None
) -> Tensor:
    """Return the model's outputs for this worker's masters, with dropout off; collective.

    Args:
        model: Called as model(view, x); has a method embed(view, x) if embeddings are requested.
        shard: Graph to compute on.
        embeddings: Whether to return the inputs of the last layer instead of the outputs.
        node_type: Type of the masters whose rows are returned, in the order of
            `Shard.masters_of`. If None, all masters.

    Shape:
        Returns (M, outputs), or (M, hidden) with `embeddings`.

    Raises:
        ConfigError: If embeddings are requested of a model without `embed`.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if embeddings and not hasattr(model, "embed"):
                raise ConfigError(
                    f"predict: expected a model with embed(view, x), got {type(model).__name__}. "
                    "Add a method that returns the embeddings."
                )
            rows = run_model(model, View(shard), method="embed" if embeddings else "__call__")
            return rows if node_type is None else rows[shard.masters_of(node_type)]
    finally:
        model.train(was_training)


def infer_in_order(model: nn.Module, shard: Shard, label: str | None) -> Tensor | None:
    """Return the model's outputs on rank 0, in the order of the input nodes; collective.

    In a graph of several node types, these are the nodes of the label's type, in the order of its
    table; without a label of nodes, those of all tables, one table after another.

    Args:
        model: Called as model(view, x).
        shard: Graph to compute on.
        label: Qualified name of the label that the model predicts.
    """
    manifest = shard.manifest
    node_type = manifest.type_of_label(label) if label in manifest.labels else None
    return gather_rows(infer(model, shard, node_type=node_type), shard, node_type)


def gather_rows(rows_M: Tensor, shard: Shard, node_type: str | None = None) -> Tensor | None:
    """Gather the rows of all workers on rank 0, in the order of the input nodes; collective.

    Use it for results that fit in the memory of one worker; `write_predictions` has no such limit.

    Args:
        rows_M: (M, ...) a row for each master.
        shard: Shard of the masters.
        node_type: Type of the masters that the rows are for, in the order of `Shard.masters_of`.
            The result is in the order of the input's table of this type. If None, all masters, in
            the order of their node keys: the tables of all types, one after another.

    Returns:
        (N, ...) on rank 0, None elsewhere.
    """
    comm = shard.comm
    keys = np.ascontiguousarray(shard.node_key_L[: shard.num_masters])
    if node_type is not None:
        keys = keys[shard.masters_of(node_type)] - shard.manifest.node_type(node_type).first_key
    blocks = comm.all_gather(rows_M.detach().cpu().contiguous().numpy(), stage="gather rows")
    all_keys = np.concatenate(comm.all_gather(keys, stage="gather keys"))
    if comm.rank != 0:
        return None
    out = np.empty((len(all_keys), *rows_M.shape[1:]), blocks[0].dtype)
    out[all_keys] = np.concatenate(blocks)
    return torch.from_numpy(out)

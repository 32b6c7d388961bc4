"""Model outputs for all nodes of the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.inference.run_model import run_model
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View

__all__ = ["gather_rows", "infer"]


def infer(model: nn.Module, shard: Shard, *, embeddings: bool = False) -> Tensor:
    """Return the model's outputs for this worker's masters, with dropout off; collective.

    Args:
        model: Called as model(view, x); has a method embed(view, x) if embeddings are requested.
        shard: Graph to compute on.
        embeddings: Whether to return the inputs of the last layer instead of the outputs.

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
            return run_model(model, View(shard), method="embed" if embeddings else "__call__")
    finally:
        model.train(was_training)


def gather_rows(rows_M: Tensor, shard: Shard) -> Tensor | None:
    """Gather the rows of all workers on rank 0, in the order of the input nodes; collective.

    Use it for results that fit in the memory of one worker; `write_predictions` has no such limit.

    Returns:
        (N, ...) on rank 0, None elsewhere.
    """
    comm = shard.comm
    keys = np.ascontiguousarray(shard.node_key_L[: shard.num_masters])
    blocks = comm.all_gather(rows_M.detach().cpu().contiguous().numpy(), stage="gather rows")
    all_keys = np.concatenate(comm.all_gather(keys, stage="gather keys"))
    if comm.rank != 0:
        return None
    out = np.empty((len(all_keys), *rows_M.shape[1:]), blocks[0].dtype)
    out[all_keys] = np.concatenate(blocks)
    return torch.from_numpy(out)

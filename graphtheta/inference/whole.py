"""Outputs of a model for every node of the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View

__all__ = ["gather_rows", "infer"]


def infer(model: nn.Module, shard: Shard, *, embeddings: bool = False) -> Tensor:
    """Return the model's outputs for this worker's masters, dropout off; collective.

    Shape:
        Returns (M, outputs), or (M, hidden) with `embeddings`.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            view = View(shard)
            x = view.inputs(next(model.parameters()).dtype)
            if embeddings and not hasattr(model, "embed"):
                raise ConfigError(
                    f"predict: {type(model).__name__} has no embed(view, x). Add one that returns "
                    "the rows to keep."
                )
            out: Tensor = (model.embed if embeddings else model)(view, x)  # type: ignore[operator]
            return out
    finally:
        model.train(was_training)


def gather_rows(rows_M: Tensor, shard: Shard) -> Tensor | None:
    """Bring every worker's rows to rank 0, in the order of the input nodes; collective.

    For results that fit one worker; `write_predictions` never brings them together.

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

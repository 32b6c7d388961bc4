"""Prediction of the whole graph, keyed by original id."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphtheta.columns import matrix_column
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.partition.manifest import LabelSpec, Task
from graphtheta.shard import Shard
from graphtheta.tgar import View

__all__ = [
    "gather_rows",
    "infer",
    "prediction_columns",
    "refuse_occupied",
    "write_predictions",
]


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


def _classes(logits: Tensor) -> dict[str, pa.Array]:
    probability = logits.softmax(1)
    return {
        "prediction": pa.array(logits.argmax(1).numpy()),
        "probability": matrix_column(probability.numpy()),
    }


def _binary(logits: Tensor) -> dict[str, pa.Array]:
    probability = logits.reshape(-1).sigmoid()
    return {
        "prediction": pa.array((probability >= 0.5).numpy()),
        "probability": pa.array(probability.numpy()),
    }


def _labels(logits: Tensor) -> dict[str, pa.Array]:
    probability = logits.sigmoid()
    return {
        "prediction": matrix_column((probability >= 0.5).numpy()),
        "probability": matrix_column(probability.numpy()),
    }


def _values(outputs: Tensor) -> dict[str, pa.Array]:
    single = outputs.shape[1] == 1
    values = outputs.reshape(-1).numpy() if single else outputs.numpy()
    return {"prediction": pa.array(values) if single else matrix_column(values)}


_COLUMNS: dict[Task, Callable[[Tensor], dict[str, pa.Array]]] = {
    "multiclass": _classes,
    "binary": _binary,
    "multilabel": _labels,
    "regression": _values,
}


def prediction_columns(outputs_T: Tensor, spec: LabelSpec) -> dict[str, pa.Array]:
    """Return `prediction` and, but for a regression, `probability` of a model's outputs.

    Shape:
        outputs_T: (T, outputs).
    """
    return _COLUMNS[spec.task](outputs_T.detach().cpu())


def refuse_occupied(folder: Path, comm: Communicator) -> None:
    """Refuse a folder that predictions cannot go to, before they are made; collective.

    Raises:
        ConfigError: If there is a file, or a folder that is not empty.
    """
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if comm.all_gather_int(int(taken), stage="predictions folder").any():
        raise ConfigError(
            f"{folder}: expected a new or empty folder for predictions, got one in use. "
            "Empty it or name another."
        )


def write_predictions(
    outputs_M: Tensor,
    shard: Shard,
    spec: LabelSpec,
    folder: Path,
    embeddings_M: Tensor | None = None,
    *,
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Write a Parquet dataset, one file a rank, renamed when whole; collective.

    Columns: `id` (original), `prediction`, `probability` (all classes), and `embedding` if given.

    Args:
        outputs_M: (M, outputs) of this worker's masters.
        shard: Original ids.
        spec: The label's task.
        folder: Made if missing.
        embeddings_M: (M, F), or None to leave them out.
        rows: (T,) int64 local ids of the masters that outputs and embeddings are of; None: all.

    Raises:
        ConfigError: If the folder is not empty.
    """
    comm = shard.comm
    refuse_occupied(folder, comm)
    ids = shard.original_ids if rows is None else shard.original_ids.take(pa.array(rows))
    columns = {"id": ids, **prediction_columns(outputs_M, spec)}
    if embeddings_M is not None:
        columns["embedding"] = matrix_column(embeddings_M.detach().cpu().numpy())
    target = folder / f"part-{comm.rank:05d}.parquet"
    partial = folder / f".{target.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), partial)
    except OSError as error:
        raise ConfigError(
            f"{folder}: expected a folder to write predictions to, got "
            f"{error.strerror or error}. Name a place with space and permission."
        ) from None
    comm.barrier(stage="predictions written")
    os.replace(partial, target)
    comm.barrier(stage="predictions renamed")

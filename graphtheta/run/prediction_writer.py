"""Write predictions as Parquet, keyed by original id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.data.schema import matrix_column
from graphtheta.errors import ConfigError
from graphtheta.partition.store.manifest import LabelKind, LabelSpec
from graphtheta.runtime.atomic import atomic_file, disk_errors
from graphtheta.shard.shard import Shard

__all__ = [
    "outputs_as_columns",
    "refuse_occupied",
    "write_columns",
    "write_predictions",
]


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


_COLUMNS: dict[LabelKind, Callable[[Tensor], dict[str, pa.Array]]] = {
    "multiclass": _classes,
    "binary": _binary,
    "multilabel": _labels,
    "regression": _values,
}


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
    ids = shard.original_ids if rows is None else shard.original_ids.take(pa.array(rows))
    columns = {"id": ids, **outputs_as_columns(outputs_M, spec.task)}
    if embeddings_M is not None:
        columns["embedding"] = matrix_column(embeddings_M.detach().cpu().numpy())
    write_columns(columns, folder, shard.comm)


def outputs_as_columns(outputs: Tensor, task: LabelKind) -> dict[str, pa.Array]:
    """Return `prediction`, and `probability` unless a number is predicted.

    Shape:
        outputs: (R, outputs), as of a model.
    """
    return _COLUMNS[task](outputs.detach().cpu())


def write_columns(columns: Mapping[str, Any], folder: Path, comm: Communicator) -> None:
    """Write a Parquet dataset, one file a rank, renamed when whole; collective.

    Args:
        columns: Of this worker, by name.
        folder: Made if missing.
        comm: The workers.

    Raises:
        ConfigError: If the folder is not empty.
    """
    refuse_occupied(folder, comm)
    target = folder / f"part-{comm.rank:05d}.parquet"
    with atomic_file(target) as partial:
        with disk_errors(folder, "predictions", ConfigError):
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns), partial)
        comm.barrier(stage="predictions written")
    comm.barrier(stage="predictions renamed")

"""Writing of predictions to Parquet files, by original id."""

from __future__ import annotations

from collections.abc import Mapping
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
from graphtheta.partition.ooc.shared_folder import shared_folder
from graphtheta.partition.store.manifest import LabelSpec
from graphtheta.runtime.atomic import remove_leftovers
from graphtheta.shard.shard import Shard

__all__ = [
    "PredictedLabel",
    "outputs_as_columns",
    "require_empty",
    "write_columns",
    "write_predictions",
]


class PredictedLabel(LabelSpec):
    """Label of a run.

    Attributes:
        threshold: Probability from which yes is predicted; None for 0.5.
        positive: Class of two that is yes.
    """

    threshold: float | None = None
    positive: int = 1


def require_empty(folder: Path, comm: Communicator) -> None:
    """Check that a directory for predictions is new or empty; collective.

    Raises:
        ConfigError: If it is not empty, or a file.
    """
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if comm.all_gather_int(int(taken), stage="predictions folder").any():
        remove_leftovers(folder)
        raise ConfigError(
            f"{folder}: expected a new or empty directory for predictions, got "
            f"{'one that is not empty' if folder.is_dir() else 'a file'}. Choose another --out."
        )


def write_predictions(
    outputs_M: Tensor,
    shard: Shard,
    spec: LabelSpec,
    folder: Path,
    embeddings_M: Tensor | None = None,
    *,
    rows: NDArray[np.int64] | None = None,
    node_type: str | None = None,
) -> None:
    """Write predictions of nodes as a Parquet dataset of one file per rank; collective.

    The columns are `id` (original), `prediction`, `probability` (of all classes), and `embedding`
    if given. In a graph of several node types, the files are in a folder with the name of the type.

    Args:
        outputs_M: Outputs of the model for this worker's masters of the type.
        shard: Shard with the original ids.
        spec: Label that was predicted.
        folder: Directory for the files; made if missing.
        embeddings_M: Embeddings of the masters, if any.
        rows: Local ids of the masters that outputs and embeddings are for. If None, all of
            the type.
        node_type: Type of the nodes. If None, the only type of the graph.

    Shape:
        outputs_M: (M, outputs). embeddings_M: (M, F). rows: (T,) int64; then outputs and
        embeddings have T rows.

    Raises:
        ConfigError: If the directory is not empty.
    """
    ids = shard.original_ids_of(node_type)
    if rows is not None:
        ids = ids.take(pa.array(shard.position_in_type.cpu().numpy()[rows]))
    columns = {"id": ids, **outputs_as_columns(outputs_M, spec)}
    if embeddings_M is not None:
        columns["embedding"] = matrix_column(embeddings_M.detach().cpu().numpy())
    write_columns(columns, folder, shard.comm, node_type or "")


def outputs_as_columns(outputs: Tensor, spec: LabelSpec) -> dict[str, pa.Array]:
    """Return the column `prediction` and, unless the label is a number, `probability`.

    A predicted class is its name, if the label was a column of texts. Yes is predicted from the
    threshold of a `PredictedLabel`, or else from 0.5.

    Shape:
        outputs: (R, outputs), the outputs of a model.
    """
    task = spec.task
    values = outputs.detach().cpu()
    if task == "binary" or (task == "regression" and values.shape[1] == 1):
        values = values.reshape(-1)
    if task == "regression":
        return {"prediction": _column(values)}
    probability = values.softmax(1) if task == "multiclass" else values.sigmoid()
    if not isinstance(spec, PredictedLabel) or spec.threshold is None:
        chosen = values.argmax(1) if task == "multiclass" else probability >= 0.5
    else:
        logits = values[:, 1] - values[:, 0] if task == "multiclass" else values
        of_yes = (logits if spec.positive else -logits).double().sigmoid()
        chosen = (of_yes >= spec.threshold) == bool(spec.positive)
        chosen = chosen.long() if task == "multiclass" else chosen
    prediction = _column(chosen)
    if spec.classes:
        prediction = pa.array(spec.classes).take(prediction.cast(pa.int64()))
    return {"prediction": prediction, "probability": _column(probability)}


def _column(values: Tensor) -> pa.Array:
    array = values.numpy()
    return pa.array(array) if array.ndim == 1 else matrix_column(array)


def write_columns(
    columns: Mapping[str, Any], folder: Path, comm: Communicator, name: str = ""
) -> None:
    """Write a Parquet dataset of one file per rank; collective.

    The directory gets its name once all ranks have written their files.

    Args:
        columns: Columns of this worker, by name.
        folder: Directory for the files; made if missing.
        comm: The workers.
        name: Name of the folder in the directory that holds the files. If empty, they are in the
            directory itself. A slash or a leading dot in the name is written as %2F or %2E.

    Raises:
        ConfigError: If the directory is not empty or cannot be written.
    """
    require_empty(folder, comm)
    with shared_folder(folder, comm, "predictions", ConfigError) as partial:
        name = name.replace("/", "%2F")
        inner = partial / (f"%2E{name[1:]}" if name.startswith(".") else name)
        inner.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), inner / f"part-{comm.rank:05d}.parquet")

"""Predictions from the labels of training nodes, without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from graphtheta.comm.communicator import Communicator
from graphtheta.datasets.store_cache import open_input
from graphtheta.inference.label_propagation import label_propagation
from graphtheta.run.prediction_writer import require_empty, write_predictions
from graphtheta.shard.open import open_shard
from graphtheta.shard.target_columns import target_column

__all__ = ["propagate_labels"]

_SPLITS = {"validation": 2, "test": 3}


def propagate_labels(
    source: str,
    out: Path,
    comm: Communicator,
    *,
    label: str | None = None,
    split: str | None = None,
    num_layers: int = 50,
    alpha: float = 0.9,
) -> dict[str, float]:
    """Predict nodes by label propagation, and write the predictions; collective.

    Args:
        source: A store, or another input, which is partitioned by `node-hash`.
        out: New or empty directory for the Parquet files, see `write_predictions`.
        comm: The workers.
        label: As for `label_propagation`.
        split: As for `label_propagation`.
        num_layers: As for `label_propagation`.
        alpha: As for `label_propagation`.

    Returns:
        Accuracy on validation and test nodes with a label, by the name of the split.

    Raises:
        ConfigError: If there is no such label of classes or split, or `out` is not empty.
    """
    require_empty(out, comm)
    shard = open_shard(open_input(source, comm), comm)
    target = target_column(shard.manifest, "nodes", "label", label)
    scores = label_propagation(shard, target.name, split, num_layers=num_layers, alpha=alpha)
    name = target_column(shard.manifest, "nodes", "split", split, target.owner).name
    y, known = shard.label(target.name)
    right = scores.argmax(1) == y
    found = {}
    for part, code in _SPLITS.items():
        rows = known & (shard.split(name) == code)
        sums = np.array([int(right[rows].sum()), int(rows.sum())])
        comm.all_reduce(sums, stage="accuracy")
        if sums[1]:
            found[part] = float(sums[0] / sums[1])
    node_type = shard.manifest.type_of_label(target.name)
    if node_type is not None:
        scores = scores[shard.masters_of(node_type)]
    logarithms = scores.clamp(min=torch.finfo(scores.dtype).tiny).log()
    write_predictions(logarithms, shard, shard.label_spec(target.name), out, node_type=node_type)
    return found

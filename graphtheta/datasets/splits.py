"""Splits of nodes: drawn by seed and node_key, or given as lists of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.convert import one_split
from graphtheta.data.schema import in_range
from graphtheta.errors import ConfigError
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["random_split", "split_of_rows"]


def random_split(
    num_nodes: int,
    labels: NDArray[np.int64] | None = None,
    *,
    train: int | float,
    val: int | float,
    seed: int,
    per_class: bool = False,
) -> NDArray[np.int8]:
    """Split nodes at random into training, validation and test nodes.

    Nodes are ordered by the hash of (seed, node_key). The first ones are for training, the next for
    validation, and the rest for test. If a class is too small, its nodes are for training first.

    Args:
        num_nodes: Number of nodes.
        labels: Classes. A negative class is a missing label, whose node gets no split. If None, all
            nodes have a label.
        train: Number (int) or fraction (float) of the labelled nodes that are for training.
        val: Number or fraction for validation.
        seed: Random seed.
        per_class: Whether `train` and `val` are numbers or fractions of each class.

    Shape:
        labels: (N,) int64. Returns (N,) int8: 0 none, 1 train, 2 validation, 3 test.

    Raises:
        ConfigError: If a count is negative, or the fractions exceed 1.
    """
    if min(train, val) < 0 or (isinstance(train + val, float) and train + val > 1):
        raise ConfigError(
            f"random_split: expected counts from 0 or fractions that sum to at most 1, "
            f"got train {train} and val {val}. Lower them."
        )
    labels = np.zeros(num_nodes, np.int64) if labels is None else labels
    keys = np.flatnonzero(labels >= 0)
    classes = labels[keys] if per_class else np.zeros(len(keys), np.int64)
    order = np.lexsort((keys, hash_keys(keys, seed, Purpose.SPLIT), classes))
    keys, classes = keys[order], classes[order]
    _, first, size = np.unique(classes, return_index=True, return_counts=True)
    position = np.arange(len(keys)) - np.repeat(first, size)
    last_train = np.repeat(_count(train, size), size)
    last_val = last_train + np.repeat(_count(val, size), size)
    split = np.zeros(num_nodes, np.int8)
    split[keys] = 3 - (position < last_val) - (position < last_train).astype(np.int8)
    return split


def split_of_rows(rows: Sequence[NDArray[np.int64]], num_rows: int, where: str) -> NDArray[np.int8]:
    """Return the split of a table that is given as lists of rows.

    Args:
        rows: Rows for training, for validation and for test.
        num_rows: Number of rows of the table.
        where: Name of the split in messages.

    Shape:
        Returns (num_rows,) int8: 0 none, 1 train, 2 validation, 3 test.

    Raises:
        GraphFormatError: If a row does not exist, or is in two of the lists.
    """
    masks = []
    for one in rows:
        in_range(pa.array(one), 0, num_rows - 1, where, 0, f"rows in [0, {num_rows:,})")
        mask = np.zeros(num_rows, np.bool_)
        mask[one] = True
        masks.append(mask)
    train, val, test = masks
    return one_split(train, val, test, where)


def _count(share: int | float, size: NDArray[np.int64]) -> NDArray[np.int64]:
    if isinstance(share, float):
        return np.asarray(np.rint(share * size), np.int64)
    return np.full(len(size), share, np.int64)

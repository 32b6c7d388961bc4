"""Values of dense keys 0 ... total-1, dealt to the ranks in contiguous blocks of equal size.

No rank holds a value for every key: a value is written at, and read from, the rank whose block its
key is in, by one exchange for all the keys a rank is interested in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.columns import column_numpy
from graphtheta.partition.shuffle import shuffle

__all__ = ["Blocks", "block_of"]

Keys = NDArray[np.int64]


def block_of(keys_R: Keys, total: int, num_blocks: int) -> Keys:
    """Return which block [total * b // num_blocks, total * (b + 1) // num_blocks) has each key."""
    # The largest b with total * b // num_blocks <= key.
    return ((keys_R + 1) * num_blocks - 1) // total


class Blocks:
    """Which rank holds which key, and how to reach a key's value.

    Methods but `owner` are collective.

    Attributes:
        total: Number of keys.
        start: First key of this rank's block, total * rank // size.
        stop: End of this rank's block.
    """

    def __init__(self, total: int, comm: Communicator) -> None:
        self.total = total
        self.start = total * comm.rank // comm.size
        self.stop = total * (comm.rank + 1) // comm.size
        self._comm = comm

    def __len__(self) -> int:
        return self.stop - self.start

    def keys(self) -> Keys:
        """Return the keys of this rank's block."""
        return np.arange(self.start, self.stop, dtype=np.int64)

    def owner(self, keys_R: Keys) -> Keys:
        """Return the rank whose block holds each key."""
        if self._comm.size == 1:
            return np.zeros(keys_R.shape[0], np.int64)
        return block_of(keys_R, self.total, self._comm.size)

    def fetch(self, keys_R: Keys, values_B: NDArray[Any], *, stage: str) -> NDArray[Any]:
        """Return the value of each key.

        Args:
            keys_R: Keys, in any order, repeated or not.
            values_B: Values of this rank's block.
            stage: What the job is doing.

        Communication:
            16 bytes and one value for each different key, in two all-to-alls.
        """
        if self._comm.size == 1:
            return values_B[keys_R]
        asked, inverse = np.unique(keys_R, return_inverse=True)
        origin = np.full(asked.shape[0], self._comm.rank, np.int32)
        questions = pa.table({"key": asked, "origin": origin})
        questions = shuffle(questions, self.owner(asked), self._comm, stage=stage)
        values = values_B[column_numpy(questions, "key") - self.start]
        answers = shuffle(
            pa.table({"value": values}),
            column_numpy(questions, "origin"),
            self._comm,
            stage=stage,
        )
        # `asked` ascends, so its owners do: answers come back in the order of the questions.
        return column_numpy(answers, "value")[inverse]

    def count(self, keys_R: Keys, *, stage: str) -> NDArray[np.int64]:
        """Return how often all ranks together name each key of this rank's block.

        Communication:
            16 bytes for each different key, in one all-to-all.
        """
        if self._comm.size == 1:
            return np.bincount(keys_R, minlength=self.total)
        different, counts = np.unique(keys_R, return_counts=True)
        rows = pa.table({"key": different, "count": counts.astype(np.int64)})
        rows = shuffle(rows, self.owner(different), self._comm, stage=stage)
        totals = np.zeros(len(self), np.int64)
        np.add.at(totals, column_numpy(rows, "key") - self.start, column_numpy(rows, "count"))
        return totals

    def put(self, keys_R: Keys, values_R: NDArray[Any], *, stage: str) -> NDArray[Any]:
        """Return the values of this rank's block, every key named by exactly one rank.

        Communication:
            8 bytes and one value a key, in one all-to-all.
        """
        rows = pa.table({"key": keys_R, "value": values_R})
        rows = shuffle(rows, self.owner(keys_R), self._comm, stage=stage)
        values = np.empty(len(self), values_R.dtype)
        values[column_numpy(rows, "key") - self.start] = column_numpy(rows, "value")
        return values
